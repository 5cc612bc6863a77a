"""Stage `evaluate`: every model on the report split, benchmarks and behaviour checks, once, and compared item by item.

In: models in the order of their making; curated documents (heldout.parquet, cloze.jsonl); problems, where models
answer (report.jsonl and instructions_report.jsonl). Out: `results.json`, `comparisons.json` and
`items/MODEL.TASK.jsonl` with every answer.

It chooses nothing: whatever is chosen by score was chosen on the selection split. Claims are derived from intervals.
Models with the same weights are not compared. All models and pairs are resampled alike: equal answers, equal intervals.
`verify` derives every figure again from the recorded items, and scores a sample of items again from the stored models.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pocketlm.evaluation.benchmarks.settings import Benchmarks
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, Rederived, many, optional, stage

if TYPE_CHECKING:
    from pocketlm.evaluation.asking import Asked


class EvaluateSettings(Settings):
    """What is asked, which models are compared, and how much text is shown."""

    comparisons: tuple[tuple[str, str], ...] = ()
    """Pairs [model, other]: the first is compared with the second, item by item."""
    benchmarks: Benchmarks
    """Published benchmarks, by the names of lm-evaluation-harness, and their files."""
    letters: tuple[str, ...] = ()
    """Benchmarks that are also asked with lettered options, in all cyclic orders, as `NAME_letters`."""
    split: Literal["all", "selection", "report"] = "all"
    """Which half of the benchmarks' items, by hash: `report` where something was chosen on the other."""
    chat: bool = False
    """Ask benchmarks in the model's chat form."""
    behaviour: tuple[str, ...] = ()
    """Behaviour checks (docs/behaviour.md)."""
    limit: int | None = Field(default=None, gt=0)
    """Only the first so many items of each task; unset asks all."""
    shown_answers: int = Field(default=8, ge=0)
    shown_continuations: int = Field(default=3, ge=0)
    """Continuations sampled from the first model."""
    continuation_tokens: int = Field(default=48, gt=0)

    @model_validator(mode="after")
    def _letters_of_benchmarks(self) -> EvaluateSettings:
        from pocketlm.data.contamination.benchmarks import LETTERED

        for name in self.letters:
            if name not in LETTERED:
                near = difflib.get_close_matches(name, LETTERED, n=2) or LETTERED
                raise ValueError(f"letters: {name!r} has no options to letter; take {' or '.join(near)}")
            if name not in self.benchmarks:
                raise ValueError(f"letters: {name!r} is not among the benchmarks; add benchmarks.{name} with its files")
        return self


def files_identity(settings: EvaluateSettings) -> str:
    """sha256 over the content of the benchmarks' files."""
    from pocketlm.evaluation.benchmarks.files import identity

    return identity("evaluate.benchmarks", settings.benchmarks)


def recheck(settings: EvaluateSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Derive every figure again from the recorded items, and score a sample of them again."""
    from pocketlm.evaluation.benchmarks.files import not_as_recorded
    from pocketlm.evaluation.recheck import rederive

    absent = not_as_recorded("evaluate.benchmarks", settings.benchmarks, artifact)
    asked = _asked(settings.model_copy(update={"benchmarks": {}, "letters": ()}) if absent else settings, inputs)
    return rederive(artifact, inputs, context, asked, settings.comparisons, settings.shown_answers, absent)


@stage(
    version=3,
    inputs={
        "models": many("model"),
        "documents": "documents",
        "problems": optional("problems"),
    },
    output="evaluation",
    external=files_identity,
    recheck=recheck,
)
def evaluate(settings: EvaluateSettings, inputs: Inputs, context: Context) -> Artifact:
    """Score every model on the report split and compare them item by item."""
    from pocketlm.evaluation.asking import open_questions
    from pocketlm.evaluation.clean import flags_of
    from pocketlm.evaluation.continuations import continuation_samples
    from pocketlm.evaluation.harness import harness_version
    from pocketlm.evaluation.inputs import open_model, require_pairs
    from pocketlm.evaluation.judgement import judge
    from pocketlm.evaluation.task_data import BITS_PER_BYTE
    from pocketlm.model.storage import WEIGHTS
    from pocketlm.training.device import prepare

    models = inputs.many("models")
    require_pairs(settings.comparisons, list(models))
    device = prepare(context.runtime)
    asked = _asked(settings, inputs)
    draft = context.draft("evaluation")
    answers, continuations = {}, []
    with open_questions(asked) as questions:
        total, done = len(models) * sum(questions.counts.values()), 0.0

        def advance(count: float) -> None:
            nonlocal done
            done += count
            context.progress(done, total, unit="item")

        for place, (name, artifact) in enumerate(models.items()):
            context.check_stop()
            model, tokenizer = open_model(artifact, device)
            answers[name] = questions.ask(model, tokenizer, artifact.digest, flags_of(artifact), advance)
            for task, rows in answers[name].items.items():
                draft.write_jsonl(f"items/{name}.{task}.jsonl", rows)
            if place == 0 and settings.shown_continuations:
                shape = (settings.shown_continuations, settings.continuation_tokens, context.seed("continuations"))
                texts = asked.data.rows[BITS_PER_BYTE]
                continuations.append(continuation_samples(name, model, tokenizer, texts, *shape))
    weights = {name: artifact.manifest["files"][WEIGHTS]["sha256"] for name, artifact in models.items()}
    judged = judge(answers, weights, settings.comparisons, settings.shown_answers, context.generator)
    results = judged.results({name: artifact.digest for name, artifact in models.items()}, asked.data.example_hashes())
    draft.write_json("results.json", {"lm_eval": harness_version(), **results})
    draft.write_json("comparisons.json", judged.comparison_rows())
    return draft.commit(judged.metrics, [*judged.blocks, *continuations])


def _asked(settings: EvaluateSettings, inputs: Inputs) -> Asked:
    from pocketlm.evaluation.inputs import stage_questions

    tasks = settings.benchmarks, settings.letters, settings.behaviour
    return stage_questions(inputs, *tasks, settings.split, settings.chat, settings.limit)
