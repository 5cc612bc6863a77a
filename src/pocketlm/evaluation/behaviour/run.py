"""Asking a model the behaviour tasks: greedy, in its own chat form.

The engine promises that a text does not depend on its batch mates, up to rounding: products of another batch size may
differ by about 1e-6 in a log-probability, so that a token can differ where two are that close.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.data.tokens.chat_template_process import TemplateRefusal
from pocketlm.errors import InputError
from pocketlm.evaluation.behaviour.repetition import repetition
from pocketlm.evaluation.behaviour.task import Row
from pocketlm.evaluation.behaviour.tasks import TASKS
from pocketlm.generation.engine import Engine, Request
from pocketlm.pipeline.storage import canonical_json, sha256_text

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer

Item = dict[str, Any]
"""A scored item: "id", "hash" (of the whole item as it is asked and judged), "level", "prompt", "answer" (what is
expected), "output", "finish" ("stop" or "length"), "correct", "why" (what is wrong) and "measures"; of the system
messages also "session" and "turn"."""

NOT_ASKED = "not_asked"
"""Measure: 1 for a prompt that fills the model's context or that its chat template refuses. It counts as wrong."""


def score_behaviour(
    model: Transformer,
    tokenizer: Tokenizer,
    names: Sequence[str],
    limit: int | None = None,
    progress: Callable[[float], None] | None = None,
    chosen: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, list[Item]]:
    """Task -> scored items, in the order of the task.

    A model without a chat form of its own is asked in ChatML.

    Args:
        names: of `TASKS`.
        limit: only the first items of each task; they are in the order of their hashes.
        progress: called with the number of items of each finished task.
        chosen: task -> positions of the items to score; tasks that are not named are left out.

    Raises:
        InputError: a task does not exist (nearest names), or the model's logits are no numbers.
    """
    rows_of = {name: rows_of_task(name)[:limit] for name in names}
    if chosen is not None:
        rows_of = {
            name: [rows[place] for place in sorted(chosen[name])] for name, rows in rows_of.items() if chosen.get(name)
        }
    engine = Engine(model)
    scored = {}
    for name, rows in rows_of.items():
        scored[name] = _score(engine, model.settings.context, tokenizer, name, rows)
        if progress is not None:
            progress(len(rows))
    return scored


def rows_of_task(name: str) -> list[Row]:
    """The items of a task, unasked. InputError with the nearest names when there is no such task."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"there is no behaviour task {name!r}{hint} There are: {', '.join(TASKS)}")
    return TASKS[name].items()


def judged(name: str, row: Row, output: str, finish: str, not_asked: bool = False) -> Item:
    """The scored item of an answer: everything in it follows from item, output and finish."""
    verdict = TASKS[name].check(row, output, finish)
    measures = {"ended": float(finish == "stop"), **repetition(output), **verdict.measures}
    messages = row["messages"]
    alone = len(messages) == 1
    return {
        "id": row["id"],
        "hash": sha256_text(canonical_json(row)),
        "level": row["level"],
        **{key: row[key] for key in ("session", "turn") if key in row},
        "prompt": messages[0]["content"]
        if alone
        else "\n".join(f"{one['role']}: {one['content']}" for one in messages),
        "answer": row["answer"],
        "output": output,
        "finish": finish,
        "correct": verdict.correct,
        "why": "it could not be asked" if not_asked else verdict.why,
        "measures": {**measures, NOT_ASKED: 1.0} if not_asked else measures,
    }


def differences(name: str, items: Sequence[Item]) -> list[str]:
    """Scored items that do not follow from their own outputs: one line each; no model is needed."""
    rows = {row["id"]: row for row in rows_of_task(name)}
    return [
        f"{name}, item {item.get('id')}: its verdict does not follow from its output"
        for item in items
        if not _follows(name, rows, item)
    ]


def _follows(name: str, rows: Mapping[str, Row], item: Item) -> bool:
    try:
        row = rows[item["id"]]
        return item == judged(name, row, item["output"], item["finish"], NOT_ASKED in item["measures"])
    except (KeyError, TypeError, AttributeError):  # fields are missing or of another type
        return False


def _score(engine: Engine, context: int, tokenizer: Tokenizer, name: str, rows: Sequence[Row]) -> list[Item]:
    prompts = [_prompt(tokenizer, row, context) for row in rows]
    stops = tuple(sorted({tokenizer.turn_end, tokenizer.end_of_text}))
    requests = [
        Request(tokens, row.get("max_tokens", TASKS[name].max_tokens), stop_tokens=stops)
        for row, tokens in zip(rows, prompts, strict=True)
        if tokens
    ]
    completions = iter(engine.generate(requests))
    items = []
    for row, tokens in zip(rows, prompts, strict=True):
        if not tokens:
            items.append(judged(name, row, "", "length", not_asked=True))
            continue
        (completion,) = next(completions)
        items.append(judged(name, row, tokenizer.decode(completion.tokens), completion.finish))
    return items


def _prompt(tokenizer: Tokenizer, row: Row, context: int) -> list[int]:
    """Token ids; none if the item cannot be asked: the context has no room or the template refuses its messages."""
    try:
        tokens, _ = encode_chat(tokenizer, row["messages"], add_generation_prompt=True)
    except TemplateRefusal:
        return []
    return tokens if len(tokens) < context else []
