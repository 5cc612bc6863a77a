"""What the parts of `bench.gpu_posttraining` share: sizes, the model that samples and its prompts, and a toy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.gpu_world import Record
from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.data.tokens.tokenizer import Tokenizer, tokenizer_config, train_tokenizer
from pocketlm.generation.engine import Engine
from pocketlm.generation.graphs import bucket, run_bucket
from pocketlm.generation.schedule import Steps
from pocketlm.generation.slots import Size, Slots
from pocketlm.model.cache import Blocks
from pocketlm.model.config import ModelSettings, preset
from pocketlm.model.formats.hugging_face import export_weights
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.storage import json_bytes

MEASURED_SOURCES = (
    "src/pocketlm/model/*.py",
    "src/pocketlm/training/*.py",
    "src/pocketlm/generation/*.py",
    "src/pocketlm/posttraining/*.py",
    "bench/gpu_posttraining*.py",
    "bench/generation_*.py",
)
STOPS_ONE_IN = 128
"""So many ids hold one that ends a text: random weights then write some 110 of at most 256 tokens in the mean."""


@dataclass(frozen=True)
class Scale:
    """Sizes of one run of the script.

    Attributes:
        prompts: of every part; with `max_tokens` new ones they fit 512 tokens.
        check_tokens: new tokens of a checked sequence.
        slots: of the engine; the first is where its checks run.
        peer_slots: those beside which the peers are measured too, which takes most of the time.
        rounds: timed runs of the engine after one that is not; of a peer there is one.
        group, step_prompts: of one step of the policy gradient.
    """

    toy: bool
    prompts: int
    check_tokens: int
    max_tokens: int
    slots: tuple[int, ...]
    peer_slots: int
    rounds: int
    group: int
    step_prompts: int
    steps: int
    micro_batch: int | None


def full_scale() -> Scale:
    """64 prompts; 256, 1,024 and 2,048 slots, peers at 1,024; steps of 64 x 16."""
    return Scale(False, 64, 64, 256, (256, 1024, 2048), 1024, 2, 16, 64, 3, 16)


def toy_scale() -> Scale:
    """Every part in seconds on one CPU core; its figures say nothing about a GPU."""
    return Scale(True, 4, 12, 10, (4, 8), 8, 1, 4, 3, 1, None)


@dataclass(frozen=True)
class Subject:
    """The model that samples, in fp32 on the device, and what it is asked. `tokenizer`: None with random weights."""

    name: str
    model: Transformer
    prompts: list[list[int]]
    stops: tuple[int, ...]
    tokenizer: Tokenizer | None = None


@dataclass
class World:
    """A run of the script: where it runs, how large, until when, and where results go."""

    scale: Scale
    device: torch.device
    record: Record
    deadline: float
    scratch: Path
    subject: Subject
    given: dict[str, str] = field(default_factory=dict)
    """What the recipe is to be run on: its overrides."""

    def left(self) -> float:
        """Seconds until the end of this run."""
        return self.deadline - time.monotonic()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Uncaptured(Engine):
    """The engine whose steps run one kernel after the other, in the very shapes that its graphs have."""

    def _prepare(self, size: Size) -> tuple[Slots, Steps]:
        slots, _ = super()._prepare(size)

        def steps(count: int, held: Blocks) -> None:
            run_bucket(slots, bucket(slots.size, held))

        return slots, steps


def random_subject(scale: Scale, device: torch.device) -> Subject:
    """Random weights of the preset 135m, or of the toy: speeds do not depend on weights."""
    shape = toy_shape(256) if scale.toy else preset("135m")
    model = Transformer(shape)
    model.init_weights(0)
    random = torch.Generator().manual_seed(0)
    longest = min(256, shape.context - scale.max_tokens)
    prompts = [
        torch.randint(3, shape.vocabulary, (longest // 4 + number % (longest // 2),), generator=random).tolist()
        for number in range(scale.prompts)
    ]
    stops = tuple(range(3, 3 + max(1, shape.vocabulary // STOPS_ONE_IN)))
    return Subject("random weights", model.to(device).requires_grad_(False), prompts, stops)


def given_subject(
    model: str, tokenizer_file: str | None, questions: Path, scale: Scale, device: torch.device
) -> Subject:
    """A model that was made elsewhere, asked the first questions of a file of GSM8K's form."""
    from bench.generation_workloads import chat_prompts
    from pocketlm.evaluation.models.loading import load, load_gguf_file

    if model.endswith(".gguf"):
        if tokenizer_file is None:
            raise SystemExit("bench.gpu_posttraining: a GGUF file needs --tokenizer")
        found, tokenizer = load_gguf_file(Path(model), Path(tokenizer_file))
    else:
        found, tokenizer = load(Path(model))
    prompts = chat_prompts(tokenizer, questions, scale.prompts)
    return Subject(Path(model).name, found.to(device).requires_grad_(False), prompts, (tokenizer.turn_end,), tokenizer)


def toy_shape(vocabulary: int) -> ModelSettings:
    """A model with grouped queries that learns nothing worth having."""
    return ModelSettings(
        vocabulary=vocabulary, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_width=64, context=320
    )


def write_toy(folder: Path) -> dict[str, str]:
    """A tiny model in transformers' form and files of GSM8K's form; returns the recipe's overrides for them."""
    texts = [f"{row['question']} {row['answer']}" for row in toy_items(200)]
    backend = train_tokenizer(texts, 320)
    tokenizer = Tokenizer(backend)
    model = Transformer(toy_shape(tokenizer.vocabulary))
    model.init_weights(0)
    home = folder / "model"
    home.mkdir(parents=True, exist_ok=True)
    export_weights(model, home, tokenizer.end_of_text, tokenizer.im_end)
    backend.save(str(home / "tokenizer.json"))
    (home / "tokenizer_config.json").write_bytes(json_bytes(tokenizer_config()))
    (home / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    items = list(toy_items(60))
    for name, rows in (("train", items[:48]), ("test", items[48:])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return {
        "import_model.path": str(home),
        "word_problems.train": str(folder / "train.jsonl"),
        "word_problems.report": str(folder / "test.jsonl"),
    }


def toy_items(count: int) -> Iterator[dict[str, str]]:
    """Problems of two steps with calculator notes, no two alike in their words."""
    names, things = ["Ann", "Ben", "Cleo", "Dan", "Eve"], ["pens", "cups", "nuts", "hats", "toys", "figs", "keys"]
    for number in range(count):
        name, thing = names[number % 5], things[number % 7]
        first, second, third = 10 + number % 37, 3 + number % 11, 1 + number % 9
        bought, left = first + second, first + second - third
        question = (
            f"{name} has {first} {thing} and buys {second} more. Then {third} {thing} get lost. How many are left?"
        )
        answer = (
            f"{name} has {first}+{second}=<<{first}+{second}={bought}>>{bought} {thing}.\n"
            f"Then {bought}-{third}=<<{bought}-{third}={left}>>{left} are left.\n#### {left}"
        )
        yield {"question": question, "answer": answer}
