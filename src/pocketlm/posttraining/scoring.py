"""Scores on selection splits, cheap enough to steer by: exact match, pass@k, bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from pocketlm.errors import InputError
from pocketlm.generation.engine import Engine
from pocketlm.generation.requests import Request, Tool
from pocketlm.model.loss import IGNORE, head_cross_entropy
from pocketlm.posttraining.examples import Prompt, Row, asked_prompts, solved_examples
from pocketlm.posttraining.log_probabilities import target_log_probabilities
from pocketlm.posttraining.packing import example_tree, group_tree, pack
from pocketlm.posttraining.rollouts.profile import PromptProfile, pass_at_by_level
from pocketlm.posttraining.rollouts.sampler import Group, Sampler
from pocketlm.posttraining.sft.supervised import SupervisedObjective
from pocketlm.training.batches import Batch
from pocketlm.training.passes import tokens_per_pass
from pocketlm.training.validation import Validation

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.posttraining.judging import SelectionJudge

SLOTS = 1024

Reward = Callable[[Row, str], bool]
"""(problem row, completion text) -> whether the answer is exactly right."""


@dataclass(frozen=True)
class ExactMatch:
    """Share of problems answered exactly, by level, and its mean over levels (each level weighs the same)."""

    levels: dict[str, float]
    counts: dict[str, int]

    @property
    def macro(self) -> float:
        return sum(self.levels.values()) / len(self.levels)

    @property
    def count(self) -> int:
        return sum(self.counts.values())


def exact_match(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    reward: Reward,
    max_tokens: int,
    tool: Tool | None = None,
) -> ExactMatch:
    """Greedy answers; right is what the verifier accepts and the model ended with <|im_end|>."""
    if not prompts:
        raise InputError("the selection split holds no problems to score; raise selection_pairs in the problems stage")
    stops, context = (tokenizer.turn_end,), model.settings.context
    for prompt in prompts:
        if len(prompt.tokens) >= context:
            raise InputError(
                f"selection split: the prompt of {prompt.row.get('id')!r} has {len(prompt.tokens)} tokens, which "
                f"leaves no room to answer in a context of {context}; shorten it, or leave the problem out"
            )
    requests = [Request(prompt.tokens, max_tokens, stop_tokens=stops, tool=tool) for prompt in prompts]
    outcomes: dict[str, list[bool]] = {}
    for prompt, [completion] in zip(prompts, Engine(model, slots=SLOTS).generate(requests), strict=True):
        right = completion.finish == "stop" and reward(prompt.row, tokenizer.decode(completion.tokens))
        outcomes.setdefault(prompt.level, []).append(bool(right))
    levels = {level: sum(results) / len(results) for level, results in outcomes.items()}
    return ExactMatch(levels, {level: len(results) for level, results in outcomes.items()})


def selection_validation(
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    judge: SelectionJudge,
    max_tokens: int,
    every: int,
    patience: int | None = None,
    by: Literal["exact_match", "loss"] = "exact_match",
    tool: Tool | None = None,
) -> Validation:
    """Scores on the solved selection split as a trainer's validation: the best weights are kept.

    Figures of a score: greedy exact match by level and its mean over levels, and the loss in nats per answer token.
    `by` says which of the two is the `value` that stops training and chooses the weights. What the `tool`, a
    calculator, writes counts in neither.

    The loss is over the rows that state an answer (those of a reward function need not; without any there is no loss)
    and whose answer fits the context with its prompt; `loss_left_out` counts the others where there are some, and
    `verifier_failures` the answers whose verifier failed, which count as wrong.
    """
    prompts = asked_prompts(tokenizer, rows)
    solved = [row for row in rows if row.get("solution") is not None or row.get("answer") is not None]
    examples = solved_examples(tokenizer, solved, "selection.jsonl", calculator=tool is not None)
    trees = [example_tree(example.tokens, example.trained) for example in examples]
    judge.foresee([sum(example.trained) for example in examples], max_tokens)

    def score(model: Transformer) -> dict[str, float]:
        failed_before = judge.failed
        result = exact_match(model, tokenizer, prompts, judge, max_tokens, tool)
        figures = {"exact_match": result.macro}
        fitting = [tree for tree in trees if len(tree) <= model.settings.context]
        if fitting:
            packed = pack(fitting, model.settings.context)
            batch = Batch(packed.tokens_BT, packed.targets_BT, packed.positions_BT, packed.mask_B1TS)
            with torch.no_grad():
                figures["loss"] = float(SupervisedObjective().loss(model, batch.to(model.head_weight_VD.device))[0])
        elif by == "loss":
            raise InputError("selection.jsonl states no answer that fits the context; choose by exact_match")
        by_level = {f"level_{level}": share for level, share in result.levels.items()}
        left_out = {"loss_left_out": len(rows) - len(fitting)} if len(fitting) < len(rows) else {}
        failed = judge.failed - failed_before
        failures = {"verifier_failures": failed} if failed else {}
        value = figures["loss"] if by == "loss" else 1 - result.macro
        return {"value": value, **figures, **by_level, **left_out, **failures}

    return Validation(every=every, patience=patience, score=score)


def share_rows(rows: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Validation rows as chart rows: one a level and step, and the mean over levels."""
    shown = []
    for row in rows:
        for name, value in row.items():
            if name == "exact_match" or name.startswith("level_"):
                level = "mean over levels" if name == "exact_match" else name.replace("_", " ")
                shown.append({"step": row["step"], "exact match": value, "level": level})
    return shown


def loss_rows(log: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Training log and validation rows, where they have one, as chart rows of the two losses."""
    training = [{"step": row["step"], "loss": row["loss"], "on": "training batches"} for row in log]
    scored = [row for row in curve if "loss" in row]
    return training + [{"step": row["step"], "loss": row["loss"], "on": "selection split"} for row in scored]


def pass_profile(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """pass@1, @2, @4, ... up to the group size and the share of live groups, one row a level.

    Completions whose verifier failed count nowhere: pass@k is over the prompts with k verdicts, None without any.
    """
    levels: dict[str, list[Group]] = {}
    for group in groups:
        levels.setdefault(group.prompt.level, []).append(group)
    rows: list[dict[str, Any]] = []
    for level, members in levels.items():
        profiles = [PromptProfile.of_group(group) for group in members]
        row: dict[str, Any] = {"level": level, "prompts": len(members)}
        k = 1
        while k <= len(members[0].completions):
            values = pass_at_by_level(profiles, k).get(level)
            row[f"pass@{k}"] = sum(values) / len(values) if values else None
            k *= 2
        row["live groups"] = sum(group.live for group in members) / len(members)
        rows.append(row)
    return rows


@torch.no_grad()
def bits_per_byte(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Bits per UTF-8 byte of plain documents, each begun and ended by <|endoftext|>, cut into windows of the context.

    A window's first token is not predicted from the window before it, which makes the figure slightly pessimistic.
    """
    stream: list[int] = [tokenizer.end_of_text]
    for tokens in tokenizer.encode_batch(texts):
        stream.extend([*tokens, tokenizer.end_of_text])
    width, device = model.settings.context, model.head_weight_VD.device
    count = math.ceil((len(stream) - 1) / width)
    padded = torch.full((count * width + 1,), IGNORE)
    padded[: len(stream)] = torch.tensor(stream)
    targets_BT = padded[1:].view(count, width)
    tokens_BT = padded[:-1].view(count, width).clamp(min=0)
    nats, rows = 0.0, max(1, tokens_per_pass(device) // width)
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        hidden_BTD = model.hidden(tokens_BT[part].to(device))
        nats += float(head_cross_entropy(hidden_BTD, model.head_weight_VD, targets_BT[part].to(device))[0])
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def first_documents(path: Path, limit: int) -> list[str]:
    """Texts of a documents table in order, whole, `limit` bytes at most (always the first one)."""
    import pyarrow.parquet as parquet

    texts: list[str] = []
    used = 0
    for batch in parquet.ParquetFile(path).iter_batches(columns=["text"], batch_size=256):
        for text in batch.column("text").to_pylist():
            used += len(text.encode())
            if texts and used > limit:
                return texts
            texts.append(text)
    if not texts:
        raise InputError(f"{path} holds no documents to score; give more text or a larger held-out share")
    return texts


@torch.no_grad()
def divergence_from(start: Transformer, groups: Sequence[Group], sampler: Sampler, rows: int | None = None) -> float:
    """KL(model that sampled the groups || start) in nats a token: the mean of log p(model) - log p(start) over the
    tokens that it sampled, `rows` packed rows in one forward pass."""
    trees = [group_tree(group.prompt.tokens, [sampler.branch(one) for one in group.completions]) for group in groups]
    packed = pack(trees, max(len(tree) for tree in trees))
    batch = Batch(packed.tokens_BT, packed.targets_BT, packed.positions_BT, packed.mask_B1TS)
    learned_BT = packed.targets_BT != IGNORE
    given_BT = target_log_probabilities(start, batch, sampler.settings.temperature, rows)
    return float((packed.behaviour_BT - given_BT)[learned_BT].mean())
