"""The engine and its two peers in transformers, each a callable that runs a workload and keeps the lengths."""

from __future__ import annotations

from typing import Any

import torch

from bench.generation_workloads import Subject, Workload
from pocketlm.generation.engine import Engine, Request
from pocketlm.generation.shadow import Shadow


class Ours:
    """The engine, kept between rounds as a training run keeps it."""

    def __init__(self, subject: Subject, workload: Workload, slots: int | None) -> None:
        self.shadow = Shadow(subject.ours, subject.dtype)
        self.engine, self.workload = Engine(self.shadow.model, slots=slots), workload
        self.lengths: list[int] = []

    def __call__(self) -> None:
        work = self.workload
        requests = [
            Request(prompt, work.max_tokens, 1.0, number, work.samples, work.stop)
            for number, prompt in enumerate(work.prompts)
        ]
        with self.shadow.products():
            results = self.engine.generate(requests)
        self.lengths = [len(one.log_probabilities) for completions in results for one in completions]


class StaticBatches:
    """`generate` on left-padded static batches of `batch` sequences with its default (dynamic) cache.

    A prompt's samples are in one batch as far as they fit; a batch runs until its last sequence has ended.
    """

    def __init__(self, subject: Subject, workload: Workload, batch: int) -> None:
        self.model, self.workload = subject.theirs, workload
        self.samples = min(workload.samples, batch)
        self.prompts = max(1, batch // self.samples)
        # A prompt with more samples than a batch holds comes round again; the longest stand together.
        repeats = -(-workload.samples // self.samples)
        self.rows = sorted((prompt for prompt in workload.prompts for _ in range(repeats)), key=len)
        self.lengths: list[int] = []

    def __call__(self) -> None:
        self.lengths = []
        torch.manual_seed(0)
        for start in range(0, len(self.rows), self.prompts):
            self._batch(self.rows[start : start + self.prompts])

    def _batch(self, prompts: list[list[int]]) -> None:
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        tokens_BT = torch.tensor([[0] * short + prompt for short, prompt in zip(padding, prompts, strict=True)])
        mask_BT = torch.tensor([[0] * short + [1] * (longest - short) for short in padding])
        new_BT = self.model.generate(
            tokens_BT,
            attention_mask=mask_BT,
            max_new_tokens=self.workload.max_tokens,
            num_return_sequences=self.samples,
            eos_token_id=list(self.workload.stop) or -1,
            pad_token_id=0,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )[:, longest:]
        stopped_BT = torch.isin(new_BT, torch.tensor(self.workload.stop, dtype=torch.long)).cumsum(1)
        self.lengths += ((stopped_BT == 0).sum(1) + (stopped_BT[:, -1] > 0)).tolist()


class ContinuousBatches:
    """`generate_batch`, which refills: at most `batch` sequences at a time, blocks of `PAGE` tokens.

    Given the samples as separate requests in the order of their prompts, so that its prefix sharing may find them.
    The cache holds the whole batch; the manager and its cache are kept between
    rounds, as its `persistent_manager` does.
    """

    PAGE = 32
    BATCH_TOKENS = 512
    """Of one pass at most; at least one for every sequence. More, and CUDA graphs, are for a GPU."""
    GRAPHS = False

    KEPT = "_cached_continuous_batching_manager"

    def __init__(self, subject: Subject, workload: Workload, batch: int) -> None:
        self.model, self.workload, self.batch = subject.theirs, workload, batch
        self.manager: Any = None
        self.lengths: list[int] = []

    def __call__(self) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        if self.manager is not None:
            setattr(self.model, self.KEPT, self.manager)

        work = self.workload
        prompts = [prompt for prompt in work.prompts for _ in range(work.samples)]
        longest = max(map(len, prompts)) + work.max_tokens
        outputs = self.model.generate_batch(
            prompts,
            generation_config=GenerationConfig(
                max_new_tokens=work.max_tokens,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                eos_token_id=list(work.stop) or -1,
                pad_token_id=0,
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=self.PAGE,
                num_blocks=(self.batch + 1) * -(-longest // self.PAGE),
                max_batch_tokens=max(self.BATCH_TOKENS, longest),
                max_requests_per_batch=self.batch,
                use_cuda_graph=self.GRAPHS,
                seed=0,
            ),
            progress_bar=False,
            persistent_manager=True,
        )
        self.manager = self.model.__dict__.pop(self.KEPT)  # the model keeps one; several sizes take turns
        self.lengths = [len(output.generated_tokens) for output in outputs.values()]
        if len(self.lengths) < len(prompts):
            raise SystemExit("continuous batching lost requests; see its log above")


def make_peer(name: str, subject: Subject, workload: Workload, batch: int) -> Any:
    """`generate` or `continuous`, with `batch` sequences at a time at most."""
    kinds = {"generate": StaticBatches, "continuous": ContinuousBatches}
    return kinds[name](subject, workload, min(batch, len(workload.prompts) * workload.samples))
