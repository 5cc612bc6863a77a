"""Stage `problems`: verifiable problems and short instructions, made by rule from the recipe's seed.

In: nothing. Out, as JSONL: the arithmetic ladder in four splits that share no operand pair (`solved` for SFT, `prompts`
without answers for RL, `selection`, `report`), and short instructions in three (`instructions` for SFT,
`instructions_selection`, `instructions_report`). How many problems are solved is settled here, before any training.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, Rederived, stage
from pocketlm.problems.arithmetic import LADDER, Row, ladder
from pocketlm.problems.calculator import evaluate
from pocketlm.problems.figures import instruction_samples, ladder_table, split_metrics
from pocketlm.problems.instructions import instructions

PairsPerLevel = tuple[Annotated[int, Field(gt=0)], ...]

INSTRUCTION_FILES = {
    "training": "instructions",
    "selection": "instructions_selection",
    "report": "instructions_report",
}


class ProblemsSettings(Settings):
    """Sizes of the splits. A pair of different operands gives two problems, one in each order."""

    solved_pairs: PairsPerLevel = (12, 66, 132)
    """Operand pairs with solutions, a number for each level: 418 problems or a few less. Fixed beforehand."""
    selection_pairs: PairsPerLevel = (8, 60, 100)
    report_pairs: PairsPerLevel = (18, 150, 250)
    instructions_per_family: int = Field(default=120, gt=0)
    """Training instructions of each family at most; the small families have fewer."""
    held_out_per_family: int = Field(default=16, gt=0)
    """Instructions of each family at most in the selection split, and again in the report split."""

    @model_validator(mode="after")
    def _one_number_a_level(self) -> ProblemsSettings:
        for name in ("solved_pairs", "selection_pairs", "report_pairs"):
            if len(getattr(self, name)) != len(LADDER):
                raise InputError(
                    f"problems.{name} has {len(getattr(self, name))} numbers; "
                    f"the ladder has {len(LADDER)} levels, give one number for each."
                )
        return self


def make_splits(settings: ProblemsSettings, seed: int) -> dict[str, list[Row]]:
    """File stem -> rows; a function of the settings and the seed."""
    counts = {
        rung.level: {
            "solved": settings.solved_pairs[place],
            "selection": settings.selection_pairs[place],
            "report": settings.report_pairs[place],
        }
        for place, rung in enumerate(LADDER)
    }
    held_out = settings.held_out_per_family
    sizes = {"training": settings.instructions_per_family, "selection": held_out, "report": held_out}
    made = instructions(sizes, seed)
    return {**ladder(counts, seed), **{stem: made[split] for split, stem in INSTRUCTION_FILES.items()}}


def recheck(settings: ProblemsSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Make every row again, and compute every stored arithmetic answer from the text of its prompt."""
    differences = []
    splits = make_splits(settings, context.seed("problems"))
    for stem, expected in splits.items():
        rows = artifact.read_jsonl(f"{stem}.jsonl")
        if rows != expected:
            differences.append(f"{stem}.jsonl does not hold the rows that the settings and the seed give")
        for row in rows:
            if "operands" in row and "answer" in row and str(evaluate(row["prompt"].rstrip("="))) != row["answer"]:
                differences.append(f"{stem}.jsonl: {row['prompt']}{row['answer']} is wrong")
    blocks = [ladder_table(splits), instruction_samples(splits["instructions"])]
    return compared(artifact, split_metrics(splits), blocks, differences=differences, sampled="every row made again")


@stage(version=1, inputs={}, output="problems", recheck=recheck)
def problems(settings: ProblemsSettings, inputs: Inputs, context: Context) -> Artifact:
    """Deal the arithmetic ladder and the short instructions to their splits."""
    splits = make_splits(settings, context.seed("problems"))
    draft = context.draft("problems")
    for stem, rows in splits.items():
        draft.write_jsonl(f"{stem}.jsonl", rows)
    return draft.commit(split_metrics(splits), [ladder_table(splits), instruction_samples(splits["instructions"])])
