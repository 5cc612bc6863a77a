"""The engine's greedy text equals that of transformers' `generate` on the exported folder, for every prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pocketlm.generation.engine import Engine, Request
from pocketlm.model.formats.hugging_face import export_weights
from tests.generation_reference import tiny_model


@torch.no_grad()
@pytest.mark.parametrize(("layout", "penalty"), [("llama", 1.0), ("qwen3", 1.0), ("llama", 1.4)])
def test_greedy_text_is_that_of_transformers(tmp_path: Path, layout: str, penalty: float) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_model(layout)
    export_weights(model, tmp_path, end_of_text=0, end_of_turn=2)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    random = torch.Generator().manual_seed(1)
    prompts = [torch.randint(61, (1 + number % 12,), generator=random).tolist() for number in range(20)]
    free = Engine(model, slots=6).generate([Request(prompt, 25, repetition_penalty=penalty) for prompt in prompts])
    stop = tuple(free[number][0].tokens[8 + number] for number in range(4))  # so that some sequences meet one
    requests = [Request(prompt, 25, stop_tokens=stop, repetition_penalty=penalty) for prompt in prompts]
    results = Engine(model, slots=6).generate(requests)
    ended = set()
    for prompt, (completion,) in zip(prompts, results, strict=True):
        row = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=25,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=list(stop),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        stopped = row[-1] in stop
        assert completion.tokens == (row[:-1] if stopped else row)
        assert completion.finish == ("stop" if stopped else "length")
        ended.add(stopped)
    assert ended == {True, False}
