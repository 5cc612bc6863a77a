"""A tiny world for evaluation tests: a trained tokenizer and model, documents, problems, and a run folder with them.

The model is trained for seconds on text and solved additions in chat form, so that its answers are neither all right
nor all wrong and no two logits tie; a random model would make near-ties.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import torch
from pyarrow import parquet

from pocketlm.data.tokens.chat import CHAT_TEMPLATE, encode_chat
from pocketlm.data.tokens.tokenizer import Tokenizer, tokenizer_config, train_tokenizer
from pocketlm.model.config import ModelSettings
from pocketlm.model.loss import head_cross_entropy
from pocketlm.model.storage import save_model
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.storage import json_bytes

STEPS = 120
RECIPE = "name: tiny\nmodel: tuned\n"


class Silent:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def texts() -> list[str]:
    """Forty documents of plain sentences, a few with more than one window of the model's context."""
    animals, places = ["cat", "dog", "bird", "horse", "fish"], ["garden", "river", "kitchen", "forest"]
    sentences = [
        f"The {animal} went to the {place} and the {animal} saw {number} stones in the {place}."
        for number, animal in enumerate(animals * 8)
        for place in places
    ]
    return [" ".join(sentences[start : start + 2 + start % 7]) for start in range(0, 160, 4)]


def report_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows of problem files: two arithmetic levels with both orders of every pair, and instructions."""
    pairs = [(a, b) for a in range(2, 6) for b in range(a, 6)] + [(10 + a, b) for a in range(5) for b in (3, 7)]
    ordered = [order for pair in pairs for order in sorted({pair, pair[::-1]})]
    report = [
        {
            "id": f"addition/{a}+{b}",
            "task": "addition",
            "level": 1 if max(a, b) < 10 else 2,
            "prompt": f"{a}+{b}=",
            "answer": str(a + b),
            "operands": [a, b],
        }
        for a, b in ordered
    ]
    instructions = [
        {"id": f"say/{word}", "task": "instruction", "level": "repeat", "prompt": f"Say {word}.", "answer": word}
        for word in ("cat", "dog", "bird", "horse")
    ]
    return {"report.jsonl": report, "instructions_report.jsonl": instructions}


def cloze_rows() -> list[dict[str, str]]:
    return [
        {"id": f"cloze/{number}", "context": text.rpartition(" ")[0], "target": text.rpartition(" ")[2].strip(".")}
        for number, text in enumerate(texts()[:20])
    ]


@cache
def trained() -> tuple[Transformer, Tokenizer]:
    """The tiny model after `STEPS` steps, and its tokenizer. Read-only: tests share it."""
    torch.set_num_threads(1)
    backend = train_tokenizer(texts(), 300)
    folder = Path(tempfile.mkdtemp(prefix="pocketlm-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.load(folder)
    rows = [[tokenizer.end_of_text, *tokenizer.encode(text)] for text in texts()]
    asked = [row for file in report_rows().values() for row in file]
    for number, row in enumerate(asked):
        answer = row["answer"] if number % 3 else "7"  # wrong lessons, so that some answers are wrong
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": answer}]
        rows.append(encode_chat(tokenizer, messages)[0])
    stream = torch.tensor([token for row in rows for token in row])
    settings = ModelSettings(
        vocabulary=300, width=48, layers=2, heads=3, kv_heads=1, head_dim=16, ffn_width=96, context=128
    )
    model = Transformer(settings)
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        starts = torch.randint(0, len(stream) - 65, (16,), generator=generator).tolist()
        inputs = torch.stack([stream[start : start + 64] for start in starts])
        targets = torch.stack([stream[start + 1 : start + 65] for start in starts])
        loss, _, count = head_cross_entropy(model.hidden(inputs), model.head_weight_VD, targets)
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    return model.eval(), tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer._backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_bytes(json_bytes(tokenizer_config()))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def write_data(folder: Path) -> Path:
    """A folder with the files of all tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = draft_in(folder.parent, f"{folder.name}-draft", "documents")
    fill_documents(draft)
    fill_problems(draft)
    shutil.copytree(draft.path, folder, dirs_exist_ok=True)
    draft.discard()
    return folder


def fill_documents(draft: Draft) -> None:
    rows = [{"id": f"document/{number}", "text": text} for number, text in enumerate(texts())]
    parquet.write_table(pyarrow.Table.from_pylist(rows), draft.path / "heldout.parquet")
    draft.write_jsonl("cloze.jsonl", cloze_rows())
    licences = {"MIT": {"documents": 3, "bytes": 300}, "PSF-2.0": {"documents": 9, "bytes": 900}}
    draft.write_json("licences.json", licences)


def fill_problems(draft: Draft) -> None:
    for name, rows in report_rows().items():
        draft.write_jsonl(name, rows)


def draft_in(folder: Path, stage: str, kind: str) -> Draft:
    manifest = {"kind": kind, "stage": stage, "version": 1, "fingerprint": f"fp-{stage}", "inputs": {}, "settings": {}}
    return Draft(folder / stage, manifest)


def context_in(folder: Path, stage: str) -> Context:
    """A context whose drafts become artifacts below `folder`."""
    return Context(
        stage,
        7,
        Runtime(threads=1, device="cpu"),
        folder / "work",
        lambda kind: draft_in(folder, stage, kind),
        lambda kind, body: None,
        Progress(Silent()),  # type: ignore[arg-type]
        StopRequest(),
    )


def model_artifact(folder: Path, stage: str, model: Transformer, tokenizer: Tokenizer) -> Artifact:
    draft = draft_in(folder, stage, "model")
    save_model(draft.path, model)
    write_tokenizer(draft.path, tokenizer)
    return draft.commit({})


def worse(model: Transformer, seed: int = 1) -> Transformer:
    """A copy of the model with noise in its weights."""
    other = Transformer(model.settings)
    other.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.empty(weight.shape).normal_(0.0, 0.05, generator=generator))
    return other.eval()


def run_folder(root: Path) -> Path:
    """A run: recipe.yaml and the artifacts curate, problems, base and tuned (the final model)."""
    folder = root / "run"
    artifacts = folder / "artifacts"
    artifacts.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    model, tokenizer = trained()
    for stage, kind, fill in (("curate", "documents", fill_documents), ("problems", "problems", fill_problems)):
        draft = draft_in(artifacts, stage, kind)
        fill(draft)
        draft.commit({})
    model_artifact(artifacts, "base", worse(model), tokenizer)
    model_artifact(artifacts, "tuned", model, tokenizer)
    return folder
