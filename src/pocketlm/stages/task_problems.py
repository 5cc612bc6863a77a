"""Stage `task_problems`: problems of reasoning-gym's data sets, and a user's own with or without a reward function.

    tasks:
      stage: task_problems
      reasoning_gym: {chain_sum: {size: 500, config: {max_terms: 3}}}
      own: {path: mine.jsonl, reward: my_reward.py}      # reward(prompt, completion, row) -> number

In: nothing but these files. Out, as JSONL: `solved`, `prompts` (never solutions), `selection`, `report`, `rejected`
with reasons, and the reward function as `reward.py`. Rows without a reward function are right when the completion
equals their answer; reasoning-gym scores its own. It does not make problems harder as a model learns.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.settings import EXECUTION, Place, Settings
from pocketlm.pipeline.stage import Inputs, Rederived, stage

GSM_SYMBOLIC = "gsm_symbolic"


class ReasoningGymSettings(Settings):
    """One data set of reasoning-gym."""

    size: int = Field(default=500, gt=0, le=1_000_000)
    config: dict[str, Any] = Field(default_factory=dict)
    """The data set's own settings, such as `max_terms` of chain_sum."""


class OwnTaskSettings(Settings):
    """A user's problems."""

    path: Annotated[Place, EXECUTION]
    """JSONL (or .json, .parquet) with `prompt`, and `answer` unless `reward` scores the rows."""
    reward: Annotated[Place | None, EXECUTION] = None
    """A Python file that defines reward(prompt, completion, row) -> number; 1 and more is correct. It travels with the
    problems and runs in a worker process."""


class TaskProblemsSettings(Settings):
    """Which tasks, and how they are dealt. Sizes count the rows of every task by itself."""

    reasoning_gym: dict[str, ReasoningGymSettings] = Field(default_factory=dict)
    own: OwnTaskSettings | None = None
    benchmark: Annotated[Place | None, EXECUTION] = None
    """GSM8K's test file (or one of its form): rows that hold an item of it are left out, and a task of
    which many do is refused. `gsm_symbolic` needs it."""
    selection_items: int = Field(default=50, gt=0)
    report_items: int = Field(default=50, ge=0)
    solved_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the other rows that go to `solved`, as far as they have an answer."""
    prompts: Literal["all", "unsolved"] = "unsolved"
    """RL asks all rows to train on, or only those whose answers are not learned from."""


def identity(settings: TaskProblemsSettings) -> str:
    """sha256 over the content of the files."""
    from pocketlm.problems.problem_files import files_identity

    own = settings.own
    places = {"own.path": own.path if own else None, "own.reward": own.reward if own else None}
    return files_identity(
        {f"task_problems.{name}": place for name, place in {**places, "benchmark": settings.benchmark}.items()}
    )


def recheck(settings: TaskProblemsSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Count the stored rows again."""
    from pocketlm.problems.figures import sizes_table, solution_samples, stem_metrics

    files = {stem: artifact.read_jsonl(f"{stem}.jsonl") for stem in ("solved", "prompts", "selection", "report")}
    metrics = {**stem_metrics(files), "items.rejected": len(artifact.read_jsonl("rejected.jsonl"))}
    return compared(artifact, metrics, [sizes_table(files), solution_samples(files)])


@stage(version=1, inputs={}, output="problems", external=identity, recheck=recheck)
def task_problems(settings: TaskProblemsSettings, inputs: Inputs, context: Context) -> Artifact:
    """Make or read problems of other people's tasks, check that they can be scored, and deal them."""
    from pocketlm.problems.contaminated import BenchmarkGate
    from pocketlm.problems.figures import derivation_table, sizes_table, solution_samples, stem_metrics
    from pocketlm.problems.foreign_tasks import Judged, own_rows, reasoning_gym_rows, split_tasks, without_repeats
    from pocketlm.problems.problem_files import paths
    from pocketlm.problems.rewards import OWN_REWARD, RewardSettings, Scorer

    if not settings.reasoning_gym and settings.own is None:
        raise InputError("task_problems: no task is given. Name data sets under reasoning_gym, or a file under own.")
    if GSM_SYMBOLIC in settings.reasoning_gym and settings.benchmark is None:
        raise InputError(
            f"task_problems.reasoning_gym.{GSM_SYMBOLIC} is built on templates of GSM8K's test split: to train on it "
            "is to train on the test. Leave it out, or set task_problems.benchmark to that test file to look for its "
            "items."
        )
    draft = context.draft("problems")
    tasks: dict[str, list[Judged]] = {}
    reward = None
    if settings.own is not None and settings.own.reward is not None:
        reward = draft.path / OWN_REWARD
        reward.write_bytes(paths("task_problems.own.reward", settings.own.reward)[0].read_bytes())
    with Scorer(RewardSettings(), reward) as scorer:
        for name, dataset in settings.reasoning_gym.items():
            seed = context.seed(f"reasoning_gym {name}")
            rows = reasoning_gym_rows(name, dataset.size, dataset.config, seed, scorer)
            tasks[name] = list(without_repeats(rows))
            context.check_stop()
        if settings.own is not None:
            files = paths("task_problems.own.path", settings.own.path)
            tasks["own"] = list(without_repeats(own_rows(files, reward is not None)))
            scorer.check(row for row, reason in tasks["own"] if not reason)
    gate = BenchmarkGate(paths("task_problems.benchmark", settings.benchmark)) if settings.benchmark else None
    made, rejected = split_tasks(
        tasks,
        gate,
        held_out={"selection": settings.selection_items, "report": settings.report_items},
        solved_share=settings.solved_share,
        every_prompt=settings.prompts == "all",
        seed=context.seed("task problems"),
    )
    for stem, rows_of_stem in {**made, "rejected": rejected}.items():
        draft.write_jsonl(f"{stem}.jsonl", rows_of_stem)
    reasons = Counter(row["reason"] for row in rejected)
    blocks = [sizes_table(made), derivation_table({}, reasons), solution_samples(made)]
    return draft.commit({**stem_metrics(made), "items.rejected": len(rejected)}, blocks)
