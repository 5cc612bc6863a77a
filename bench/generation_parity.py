"""The engine's greedy text and log-probabilities on a real model: against transformers' `generate` and the trainer.

    python -m bench.generation_parity MODEL.gguf TOKENIZER.json QUESTIONS.jsonl [--prompts 64] [--tokens 64]

The first questions of a JSONL file (field `question`) in the chat form are continued greedily by both sides in fp32,
without a stop token, so that every text has all its tokens. transformers runs left-padded batches of --batch. Where two
texts part, the record says at which token, and the gap between the two logits in a full forward pass in float64: below
`NEAR_TIE` float32 cannot tell the two tokens apart, and either is right.

Log-probabilities: those that the engine returned for greedy and for sampled texts (temperature 0.8) against
`token_log_probabilities` of a full forward pass, which is what a trainer computes; the record has the
largest difference.

Exit code 1 if a text parts from transformers' where the logits are no near-tie, or a log-probability differs by more
than `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.common import write_result
from bench.generation_workloads import Subject, from_gguf
from pocketlm.generation.engine import Completion, Engine, Request
from pocketlm.model.loss import token_log_probabilities
from pocketlm.model.transformer import Transformer

NEAR_TIE = 1e-4
TOLERANCE = 1e-4
TEMPERATURE = 0.8


def greedy_texts(subject: Subject, tokens: int, batch: int) -> list[list[int]]:
    """What transformers' `generate` continues each prompt with, in the order of the prompts."""
    order = sorted(range(len(subject.prompts)), key=lambda number: len(subject.prompts[number]))
    texts: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        numbers = order[start : start + batch]
        prompts = [subject.prompts[number] for number in numbers]
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        new_BT = subject.theirs.generate(
            torch.tensor([[0] * short + prompt for short, prompt in zip(padding, prompts, strict=True)]),
            attention_mask=torch.tensor([[0] * short + [1] * (longest - short) for short in padding]),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=0,
        )[:, longest:]
        texts.update(zip(numbers, new_BT.tolist(), strict=True))
    return [texts[number] for number in range(len(order))]


@torch.no_grad()
def largest_difference(
    model: Transformer, prompts: list[list[int]], completions: list[Completion], temperature: float
) -> float:
    """Largest |log-probability of the engine - of a full forward pass| over all tokens."""
    largest = 0.0
    for prompt, completion in zip(prompts, completions, strict=True):
        tokens_1T = torch.tensor([[*prompt, *completion.tokens]])
        hidden_1TD = model.hidden(tokens_1T[:, :-1])[:, len(prompt) - 1 :]
        trainer_1T, _ = token_log_probabilities(
            hidden_1TD, model.head_weight_VD, tokens_1T[:, len(prompt) :], temperature
        )
        largest = max(largest, float((trainer_1T[0] - torch.tensor(completion.log_probabilities)).abs().max()))
    return largest


@torch.no_grad()
def parting(model: Transformer, prompt: list[int], ours: list[int], theirs: list[int]) -> dict[str, Any]:
    """Where two texts part, and by how much the logits of the two tokens differ in float64."""
    place = next(place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    logits_V = model(torch.tensor([[*prompt, *ours[:place]]]))[0, -1]
    gap = abs(float(logits_V[ours[place]] - logits_V[theirs[place]]))
    return {"token": place, "ours": ours[place], "theirs": theirs[place], "logit_gap": gap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="prompts in a batch of transformers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        subject = from_gguf(
            arguments.weights,
            arguments.tokenizer,
            arguments.questions,
            Path(scratch),
            arguments.prompts,
            torch.float32,
        )
    prompts, engine = subject.prompts, Engine(subject.ours)
    greedy = [one for (one,) in engine.generate([Request(prompt, arguments.tokens) for prompt in prompts])]
    requests = [Request(prompt, arguments.tokens, TEMPERATURE, seed) for seed, prompt in enumerate(prompts)]
    sampled = [one for (one,) in engine.generate(requests)]
    theirs = greedy_texts(subject, arguments.tokens, arguments.batch)
    precise = copy.deepcopy(subject.ours).double()
    differing = [
        {"prompt": number, **parting(precise, prompt, one.tokens, other)}
        for number, (prompt, one, other) in enumerate(zip(prompts, greedy, theirs, strict=True))
        if one.tokens != other
    ]
    record: dict[str, Any] = {
        "model": subject.name,
        "prompts": len(prompts),
        "tokens": arguments.tokens,
        "equal_texts": len(prompts) - len(differing),
        "differing": differing,
        "log_probability_difference": {
            "greedy": largest_difference(subject.ours, prompts, greedy, 1.0),
            f"temperature {TEMPERATURE}": largest_difference(subject.ours, prompts, sampled, TEMPERATURE),
        },
    }
    print(record)
    print(write_result("generation_parity", record, ("transformers",)))
    wrong = [one for one in differing if one["logit_gap"] > NEAR_TIE]
    if wrong or max(record["log_probability_difference"].values()) > TOLERANCE:
        raise SystemExit("the engine is not equal: see above")


if __name__ == "__main__":
    main()
