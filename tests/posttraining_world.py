"""A tiny world for post-training tests: tokenizer, model, problems and documents as artifacts, seconds on one core."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.data.tokens.tokenizer import Tokenizer, train_tokenizer
from pocketlm.model.config import ModelSettings
from pocketlm.model.storage import save_model
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.posttraining.examples import solved_examples
from pocketlm.posttraining.merging.interpolation import copy_weights
from pocketlm.posttraining.sft.supervised import SupervisedBatches, SupervisedObjective
from tests.toy import Silent

TEXTS = ["user assistant " + " ".join(f"number {index} and {index * 3}" for index in range(60))]

VOCABULARY = 276


def small_tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(TEXTS, VOCABULARY))


def small_model(seed: int = 0) -> Transformer:
    torch.set_num_threads(1)
    settings = ModelSettings(
        vocabulary=VOCABULARY, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn_width=64, context=96
    )
    model = Transformer(settings)
    model.init_weights(seed)
    return model


def rows(first: range, second: range, answers: bool = True) -> list[dict[str, Any]]:
    made = []
    for left in first:
        for right in second:
            row = {
                "id": f"addition/1/{left}+{right}",
                "task": "addition",
                "level": 1 if left < 5 else 2,
                "prompt": f"{left}+{right}=",
                "operands": [left, right],
            }
            made.append({**row, "answer": str(left + right)} if answers else row)
    return made


def artifact(folder: Path, kind: str, files: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> Artifact:
    """Commit JSONL files (or whatever a callable writes) as an artifact."""
    draft = Draft(folder, {"kind": kind, "stage": folder.name, "version": 1, "fingerprint": folder.name})
    for name, content in files.items():
        if callable(content):
            content(draft.path)
        else:
            draft.write_jsonl(name, content)
    return draft.commit(metrics or {})


def model_artifact(folder: Path, model: Transformer, metrics: Mapping[str, Any] | None = None) -> Artifact:
    tokenizer = small_tokenizer()

    def write(path: Path) -> None:
        save_model(path, model)
        (path / "tokenizer.json").write_text(tokenizer._backend.to_str(), encoding="utf-8")
        (path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
        (path / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")

    return artifact(folder, "model", {"": write}, metrics)


def problems_artifact(folder: Path) -> Artifact:
    instruction = {"task": "instruction", "level": "repeat"}
    return artifact(
        folder,
        "problems",
        {
            "solved.jsonl": rows(range(0, 10), range(0, 2)),
            "instructions.jsonl": [{**instruction, "id": "i", "prompt": "Say and.", "answer": "and"}],
            "selection.jsonl": rows(range(0, 10), range(2, 3)),
            "prompts.jsonl": rows(range(0, 10), range(3, 9), answers=False),
        },
    )


def documents_artifact(folder: Path) -> Artifact:
    def write(path: Path) -> None:
        table = pyarrow.table({"id": ["a", "b"], "text": [TEXTS[0][:200], "and number"]})
        pyarrow.parquet.write_table(table, path / "heldout_selection.parquet")

    return artifact(folder, "documents", {"": write})


class World:
    """One stage's surroundings below a folder; `events` collects what would go to the ledger."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder = folder
        self.stop = StopRequest()
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        work = folder / "work" / stage
        work.mkdir(parents=True, exist_ok=True)

        def draft(kind: str) -> Draft:
            return Draft(folder / "made" / stage, {"kind": kind, "stage": stage, "version": 1, "fingerprint": "f"})

        self.context = Context(
            stage,
            7,
            Runtime(threads=1, device="cpu"),
            work,
            draft,
            lambda kind, body: self.events.append((kind, body)),
            Progress(Silent()),  # type: ignore[arg-type]
            self.stop,
        )


@cache
def taught_weights() -> dict[str, torch.Tensor]:
    """Weights of a small model that answers in form and is right now and then: groups of it are live."""
    tokenizer, model = small_tokenizer(), small_model()
    batches = SupervisedBatches([(solved_examples(tokenizer, rows(range(0, 10), range(0, 6)), "rows"), 30)], 96, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(60):
        loss, _ = SupervisedObjective().loss(model, batches.batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def taught_model() -> Transformer:
    model = small_model()
    copy_weights(model, taught_weights())
    return model
