"""Stage `word_problems`: GSM8K's training items as rationales or programs, and new problems made from them.

In: nothing but files of GSM8K's form. Out, as JSONL: `solved` (with solutions, for SFT), `prompts` (answers but no
solutions, for RL), `selection`, `report` (the report file, to be scored once), and `rejected` with reasons.

New problems need no teacher: other numbers in the question, the annotated chain computed again (`problems.derived`).
All that comes from one item is in one split. What holds an item of the report file is left out, derived problems too.
It does not judge whether new numbers are plausible, and takes no unannotated rationales.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.settings import EXECUTION, Place, Settings
from pocketlm.pipeline.stage import Inputs, Rederived, stage


class WordProblemsSettings(Settings):
    """Files, form and sizes."""

    train: Annotated[Place, EXECUTION]
    """File, glob or `hf://` path of solved items with the columns `question` and `answer`. The content is the
    identity."""
    report: Annotated[Place | None, EXECUTION] = None
    """The same for the items that the report is made on (GSM8K's test split); nothing to train on may hold one."""
    form: Literal["rationale", "program"] = "rationale"
    """What is learned: rationales with calculator notes and a last line `#### 72`, or straight-line programs."""
    derived_per_item: int = Field(default=0, ge=0, le=1000)
    """New problems from each item to train on, at most."""
    selection_items: int = Field(default=200, gt=0)
    report_items: int = Field(default=0, ge=0)
    """Items dealt to the report split where there is no report file."""
    solved_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the items to train on whose solutions are learned from, with all problems derived from them."""
    prompts: Literal["all", "unsolved"] = "all"
    """RL asks all items to train on, or only those whose solutions are not learned from."""


def identity(settings: WordProblemsSettings) -> str:
    """sha256 over the content of the files."""
    from pocketlm.problems.problem_files import files_identity

    return files_identity({"word_problems.train": settings.train, "word_problems.report": settings.report})


def recheck(settings: WordProblemsSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Every stored solution is scored by the verifier, and no item is in two held-out splits."""
    from pocketlm.problems.figures import sizes_table, solution_samples, stem_metrics
    from pocketlm.problems.verifier import verify

    differences: list[str] = []
    home: dict[str, str] = {}
    files = {stem: artifact.read_jsonl(f"{stem}.jsonl") for stem in ("solved", "prompts", "selection", "report")}
    for stem, rows in files.items():
        for row in rows:
            if "solution" in row and not verify(row, row["solution"]).correct:
                differences.append(f"{stem}.jsonl: the solution of {row['id']} does not give its answer")
            original = row["id"].partition("/derived/")[0]
            side = stem if stem in ("selection", "report") else "training"
            if home.setdefault(original, side) != side:
                differences.append(f"{stem}.jsonl: {original} is in {home[original]} too")
    metrics = {**stem_metrics(files), "items.rejected": len(artifact.read_jsonl("rejected.jsonl"))}
    return compared(
        artifact,
        metrics,
        [sizes_table(files), solution_samples(files)],
        differences=differences,
        sampled="every stored solution scored by the verifier again",
        resting={"derived.*": "needs the files that the problems were read from"},
    )


@stage(version=1, inputs={}, output="problems", external=identity, recheck=recheck)
def word_problems(settings: WordProblemsSettings, inputs: Inputs, context: Context) -> Artifact:
    """Read solved word problems, derive new ones and deal them to splits."""
    from pocketlm.problems.figures import derivation_table, sizes_table, solution_samples, stem_metrics
    from pocketlm.problems.problem_files import paths
    from pocketlm.problems.word_problems import word_problem_splits

    if settings.solved_share == 1 and settings.prompts == "unsolved":
        raise InputError("word_problems: solved_share 1 leaves no unsolved item to ask. Lower it, or set prompts: all.")

    def tick(done: int, total: int) -> None:
        context.progress(done, total, "item")
        context.check_stop()

    held_out = {"selection": settings.selection_items}
    if settings.report is None:
        held_out["report"] = settings.report_items
        context.warn("no report file is given: nothing is looked for that training must not hold")
    made = word_problem_splits(
        train=paths("word_problems.train", settings.train),
        report=paths("word_problems.report", settings.report) if settings.report else [],
        form=settings.form,
        derived_per_item=settings.derived_per_item,
        held_out=held_out,
        solved_share=settings.solved_share,
        every_prompt=settings.prompts == "all",
        seed=context.seed("word problems"),
        tick=tick,
    )
    draft = context.draft("problems")
    for stem, rows in {**made.files, "rejected": made.rejected}.items():
        draft.write_jsonl(f"{stem}.jsonl", rows)
    reasons = Counter(row["reason"] for row in made.rejected)
    derivation = made.derivation
    metrics = {
        **stem_metrics(made.files),
        "items.rejected": len(made.rejected),
        "derived.problems": derivation.made,
        "derived.items": derivation.derived_from,
        "derived.items_asked": derivation.items,
    }
    blocks = [sizes_table(made.files), derivation_table(derivation.refused, reasons), solution_samples(made.files)]
    return draft.commit(metrics, blocks)
