"""A toy registry for tests of the engine: three stages over text, no torch, milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import figure, paragraph
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import Recipe, load_recipe
from pocketlm.pipeline.runner import Runner, RunResult
from pocketlm.pipeline.settings import EXECUTION, Settings
from pocketlm.pipeline.stage import Inputs, StageDefinition, many, optional, stage
from pocketlm.pipeline.storage import json_bytes, write_bytes_atomic

RECIPE = """
name: toy
seed: 7
words:
  count: 5
shout:
  inputs: {text: words}
again:
  stage: shout
  inputs: {text: words, other: shout}
  suffix: "?"
report:
  inputs: {stages: "*"}
"""


class WordsSettings(Settings):
    count: int = 3
    path: Annotated[str, EXECUTION] = "nowhere"


class ShoutSettings(Settings):
    suffix: str = "!"


class ReportSettings(Settings):
    pass


@stage(version=1, inputs={}, output="text")
def words(settings: WordsSettings, inputs: Inputs, context: Context) -> Artifact:
    """Some words."""
    draft = context.draft("text")
    numbers = context.generator("words").integers(0, 100, settings.count).tolist()
    draft.write_jsonl("rows.jsonl", [{"word": f"w{number}"} for number in numbers])
    return draft.commit({"words": figure(settings.count, n=settings.count)}, [paragraph("words")])


@stage(version=1, inputs={"text": "text", "other": optional("text")}, output="text")
def shout(settings: ShoutSettings, inputs: Inputs, context: Context) -> Artifact:
    """The words, louder."""
    rows = [{"word": row["word"].upper() + settings.suffix} for row in inputs["text"].read_jsonl("rows.jsonl")]
    if other := inputs.get("other"):
        rows += other.read_jsonl("rows.jsonl")
    draft = context.draft("text")
    draft.write_jsonl("rows.jsonl", rows)
    return draft.commit({"rows": len(rows)})


@stage(version=1, inputs={"stages": many("*")}, output="report")
def report(settings: ReportSettings, inputs: Inputs, context: Context) -> Artifact:
    """All metrics."""
    draft = context.draft("report")
    return draft.commit({name: str(artifact.metrics) for name, artifact in inputs.many("stages").items()})


def registry() -> dict[str, StageDefinition]:
    return {"words": words, "shout": shout, "report": report}


def derive(folder: Path, seal: str) -> dict[str, bytes]:
    return {"report.json": json_bytes({"seal": seal})}


def publish(folder: Path, seal: str) -> None:
    for name, content in derive(folder, seal).items():
        write_bytes_atomic(folder / name, content)


def recipe_file(folder: Path, text: str = RECIPE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def recipe(folder: Path, *overrides: str, text: str = RECIPE) -> Recipe:
    return load_recipe(recipe_file(folder, text), registry(), overrides)


class Silent:
    """A stream that keeps what progress prints."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def run(folder: Path, *overrides: str, only: str | None = None, text: str = RECIPE) -> RunResult:
    made = recipe(folder.parent / f"{folder.name}-recipe", *overrides, text=text)
    return Runner(made, folder, publish, Progress(Silent())).run(only)  # type: ignore[arg-type]
