"""The generation engine beside transformers' `generate`: same exported weights, same process, rounds in turn.

    python -m bench.generation [--threads N] [--rounds N] [--model FOLDER]

Three workloads: rollouts (64 prompts of 18 tokens x 16 samples, up to 8 new tokens), one stream of 200 tokens, and 64
texts of up to 200 tokens that end at different places. transformers runs static batches with its default (dynamic)
cache: all sequences of a workload at once, padded on the left. Tokens counted are those up to and with the stop token,
on both sides. Without --model the weights are random (preset `quickstart`): speeds do not depend on them, lengths do.

What it does not cover: accelerators, and transformers' continuous batching.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.common import alternate, paired_ratio, write_result
from pocketlm.generation.engine import Engine, Request
from pocketlm.model.config import preset
from pocketlm.model.formats.hugging_face import export_weights, load_hugging_face
from pocketlm.model.transformer import Transformer

STOPS = tuple(range(3, 43))
"""40 of 2,048 ids: random weights then end a text after some 50 tokens, at very different places."""


@dataclass(frozen=True)
class Workload:
    """Prompts and how each is continued."""

    name: str
    prompts: list[list[int]]
    samples: int
    max_tokens: int
    stop: tuple[int, ...]
    temperature: float = 1.0


def workloads(vocabulary: int) -> list[Workload]:
    random = torch.Generator().manual_seed(0)

    def prompt(length: int) -> list[int]:
        return torch.randint(100, vocabulary, (length,), generator=random).tolist()

    return [
        Workload("rollouts 64x16, 8 tokens", [prompt(18) for _ in range(64)], 16, 8, (2,)),
        Workload("one stream, 200 tokens", [prompt(18)], 1, 200, ()),
        Workload("64 texts, up to 200 tokens", [prompt(4 + number % 40) for number in range(64)], 1, 200, STOPS),
    ]


class Ours:
    """The engine, kept between rounds as a training run keeps it."""

    def __init__(self, model: Transformer, workload: Workload) -> None:
        self.engine, self.workload, self.tokens = Engine(model), workload, 0

    def __call__(self) -> None:
        work = self.workload
        requests = [
            Request(prompt, work.max_tokens, work.temperature, number, work.samples, work.stop)
            for number, prompt in enumerate(work.prompts)
        ]
        results = self.engine.generate(requests)
        self.tokens = sum(len(one.log_probabilities) for completions in results for one in completions)


class Theirs:
    """transformers' `generate` on one left-padded static batch."""

    def __init__(self, model: Any, workload: Workload) -> None:
        longest = max(map(len, workload.prompts))
        padding = [longest - len(prompt) for prompt in workload.prompts]
        self.model, self.workload, self.tokens = model, workload, 0
        self.tokens_BT = torch.tensor(
            [[0] * short + prompt for short, prompt in zip(padding, workload.prompts, strict=True)]
        )
        self.mask_BT = torch.tensor([[0] * short + [1] * (longest - short) for short in padding])

    def __call__(self) -> None:
        work = self.workload
        sampling = {"do_sample": True, "temperature": work.temperature, "top_k": 0, "top_p": 1.0}
        torch.manual_seed(0)
        new_BT = self.model.generate(
            self.tokens_BT,
            attention_mask=self.mask_BT,
            max_new_tokens=work.max_tokens,
            num_return_sequences=work.samples,
            eos_token_id=list(work.stop) or None,
            pad_token_id=0,
            **sampling,
        )[:, self.tokens_BT.shape[1] :]
        stopped_BT = torch.isin(new_BT, torch.tensor(work.stop, dtype=torch.long)).cumsum(1)
        self.tokens = int(((stopped_BT == 0).sum(1) + (stopped_BT[:, -1] > 0)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, help="an exported Hugging Face folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.model or Path(scratch)
        if arguments.model is None:
            made = Transformer(preset("quickstart"))
            made.init_weights(0)
            export_weights(made, folder, end_of_text=0, end_of_turn=2)
        ours = load_hugging_face(folder).requires_grad_(False)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for workload in workloads(ours.settings.vocabulary):
        candidates = {"engine": Ours(ours, workload), "transformers": Theirs(theirs, workload)}
        seconds = alternate(candidates, arguments.rounds)
        speeds = {name: [run.tokens / one for one in seconds[name]] for name, run in candidates.items()}
        rows.append(
            {
                "workload": workload.name,
                **{f"{name}_tokens": run.tokens for name, run in candidates.items()},
                **{f"{name}_seconds": round(median(seconds[name]), 4) for name in candidates},
                **{f"{name}_tokens_per_second": round(median(speeds[name])) for name in candidates},
                # Per token, because lengths are drawn: the ratio of speeds in the same round.
                "ratio": round(paired_ratio(speeds["engine"], speeds["transformers"]), 2),
            }
        )
        print(rows[-1])
    shape = {**ours.settings.model_dump(), "parameters": ours.settings.parameter_count()}
    payload = {"model": shape, "weights": "given" if arguments.model else "random", "rounds": arguments.rounds}
    print(write_result("generation", {**payload, "rows": rows}, ("transformers",)))


if __name__ == "__main__":
    main()
