"""What the models of a study answered to the report split, and what they make of held-out text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.errors import InputError
from pocketlm.evaluation.scores import cluster_of
from pocketlm.evaluation.studies.study import Items
from pocketlm.generation.engine import Engine, Request
from pocketlm.pipeline.seeds import derive_seed
from pocketlm.problems.verifier import verify
from pocketlm.training.heldout import document_bits

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.generation.requests import Tool
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact

Row = Mapping[str, Any]
Answer = dict[str, Any]
"""{"id", "level", "right": one verdict a sample, "text": the first sample}"""


def answer(
    model: Transformer,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    prompts: Sequence[Sequence[int]],
    samples: int,
    max_tokens: int,
    seed: int,
    tool: Tool | None = None,
) -> list[Answer]:
    """One answer an item: the greedy one, or several samples at temperature 1 (`samples` > 1).

    Right is what the verifier accepts and the model ended itself. An item's draws depend on `seed` and its id alone.

    Args:
        prompts: tokens that each row is asked with.
        tool: what may write into an answer.
    """
    requests = [
        Request(
            prompt,
            max_tokens,
            temperature=0.0 if samples == 1 else 1.0,
            seed=derive_seed(seed, str(row["id"])),
            samples=samples,
            stop_tokens=(tokenizer.turn_end,),
            tool=tool,
        )
        for row, prompt in zip(rows, prompts, strict=True)
    ]
    answers = []
    for row, completions in zip(rows, Engine(model).generate(requests), strict=True):
        texts = [tokenizer.decode(completion.tokens) for completion in completions]
        ended = [completion.finish == "stop" for completion in completions]
        right = [stopped and verify(row, text).correct for stopped, text in zip(ended, texts, strict=True)]
        answers.append({"id": row["id"], "level": row["level"], "right": right, "text": texts[0]})
    return answers


def differences(name: str, recorded: Sequence[Answer], again: Sequence[Answer], rows: Sequence[Row]) -> list[str]:
    """One line for each item that a model answered otherwise than recorded, or one if the record is of other items."""
    if [item["id"] for item in recorded] != [row["id"] for row in rows]:
        return [f"{name}: the recorded answers are not those to report.jsonl"]
    by_id = {item["id"]: item for item in recorded}
    return [
        f"{name}, problem {item['id']}: recorded {by_id[item['id']]}, answered again {item}"
        for item in again
        if item != by_id[item["id"]]
    ]


def shares(answers: Sequence[Answer]) -> np.ndarray:
    """Share of right samples of every item, float64 [items]."""
    return np.array([sum(item["right"]) / len(item["right"]) for item in answers])


def problems_of(rows: Sequence[Row]) -> Items:
    """Levels weigh equally; both orders of an operand pair are drawn together."""
    return Items.equal([cluster_of(row) for row in rows], [str(row["level"]) for row in rows])


def report_rows(problems: Artifact) -> list[Row]:
    """The problems of the report split. InputError when there are none, or two with the same id."""
    rows: list[Row] = problems.read_jsonl("report.jsonl")
    if not rows:
        raise InputError(f"study: report.jsonl of {problems.stage} holds no problems to compare the arms on")
    seen: set[str] = set()
    for row in rows:
        if str(row["id"]) in seen:
            raise InputError(f"study: report.jsonl of {problems.stage} holds the problem {row['id']!r} twice")
        seen.add(str(row["id"]))
    return rows


def held_out_texts(documents: Artifact, most_bytes: int) -> list[str]:
    """The first documents of the report split, whole ones, `most_bytes` bytes at most (always one)."""
    from pyarrow import parquet

    texts: list[str] = []
    used = 0
    for text in parquet.read_table(documents.file("heldout.parquet"), columns=["text"]).column("text").to_pylist():
        used += len(text.encode())
        if texts and used > most_bytes:
            break
        texts.append(text)
    if not texts:
        raise InputError(
            f"study: {documents.stage} holds no held-out documents; leave the input `documents` out, or hold text out"
        )
    return texts


def bits(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Bits that a model needs for every document, float64 [documents]."""
    documents = [np.array(tokens) for tokens in tokenizer.encode_batch(texts)]
    return document_bits(model, documents, tokenizer.end_of_text)


def documents_of(texts: Sequence[str]) -> Items:
    """Documents, each for itself, divided by their bytes in sum."""
    lengths = np.array([float(len(text.encode())) for text in texts])
    return Items(range(len(texts)), [0] * len(texts), lengths)
