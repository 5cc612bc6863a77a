"""Few-shot examples: the same for every model, and for an item whatever else is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pocketlm.evaluation.benchmarks.tasks import find_benchmarks
from pocketlm.evaluation.harness import open_suite
from pocketlm.evaluation.task_data import TaskData, read_benchmarks
from tests.benchmark_files import write_benchmarks


class Listener:
    """A model of the harness that answers nothing and keeps what it was asked."""

    rank, world_size, tokenizer_name = 0, 1, "none"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.asked += [request.args[0] for request in requests]
        return ["" for _ in requests]


def test_prompts_do_not_depend_on_what_was_asked_before_or_besides(tmp_path: Path) -> None:
    data = read_benchmarks(TaskData({}), find_benchmarks(write_benchmarks(tmp_path, ["gsm8k"])))

    with open_suite(data) as suite:

        def prompts(**how: Any) -> list[str]:
            listener = Listener()
            suite.evaluate(listener, **how)  # type: ignore[arg-type]
            return listener.asked

        whole = prompts()
        assert len(whole) == len(set(whole)) == 3
        assert prompts() == whole
        assert prompts(limit=2) == whole[:2]
        for chosen in ([0], [1], [2], [0, 2], [1, 2]):
            assert prompts(chosen={"gsm8k": chosen}) == [whole[place] for place in chosen]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
