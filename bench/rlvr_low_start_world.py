"""The world of bench/rlvr_low_start.py: additions of growing length, a start that hardly ever solves the last level,
and how a model is scored. Problems of a level are split by operand pair; the split is the same for all seeds.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.data.tokens.tokenizer import Tokenizer, train_tokenizer
from pocketlm.generation.engine import Engine
from pocketlm.generation.requests import Request
from pocketlm.model.config import ModelShape
from pocketlm.model.storage import load_model, save_model
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.seeds import derive_seed
from pocketlm.pipeline.settings import Runtime, Settings
from pocketlm.pipeline.stage import Inputs, StageDefinition
from pocketlm.posttraining.examples import asked_prompts, solved_examples
from pocketlm.posttraining.rollouts.sampler import Sampler
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.posttraining.sft.supervised import SupervisedBatches, SupervisedObjective
from pocketlm.problems.arithmetic import Rung, deal, problems
from pocketlm.problems.rewards import RewardSettings, Scorer
from pocketlm.problems.verifier import verify
from pocketlm.training.settings import TrainingSettings
from pocketlm.training.trainer import Trainer
from pocketlm.training.validation import Validation

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]
SPLIT_SEED = 0
MAX_TOKENS = 6
SLOTS = 1024
EASY, TARGET = 48, 16
"""Examples of a step in the second part of the start's training: of the easier levels, and of the target level."""


SHAPE = ModelShape(layout="qwen3", width=96, layers=3, heads=4, kv_heads=4, head_dim=24, ffn_width=256, context=128)


@dataclass(frozen=True)
class World:
    """Levels from easy to hard, the last one the target; operand pairs of each level and split; the model; the budget.

    A pair of different operands gives two problems.
    """

    digits: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (2, 2))
    solved: tuple[int, ...] = (24, 400, 12)
    """What the start learns from; no arm sees it again but for the cold start."""
    selection: tuple[int, ...] = (1, 1, 100)
    """Only the target level's are looked at."""
    report: tuple[int, ...] = (8, 100, 400)
    pool: int = 5000
    """Pairs of each level that the arms may sample, at most."""
    gold: int = 50
    """Pairs of the target level whose solutions the cold start gets beside what the start had."""
    shape: ModelShape = SHAPE
    start_steps: int = 500
    start_rate: float = 2e-2
    start_success: float = 0.02
    """Of the target level's samples, at which the start is done."""
    budget: int = 4_000_000
    """Tokens that each arm samples, every sequence with its prompt."""
    profiled: int = 400
    """Prompts of each level in the profile, at most."""
    sft_steps: int = 250
    """Steps of each SFT of an arm: in a round of rejection sampling, on solutions."""
    rounds: int = 8
    """Of rejection sampling."""
    samples: int = 16
    """Samples of each held-out problem."""

    @property
    def target(self) -> str:
        return str(len(self.digits))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Single characters, but for the names of the roles."""
        return Tokenizer(train_tokenizer(["user assistant " * 30], 270))

    @cached_property
    def splits(self) -> dict[str, list[Row]]:
        """solved, selection, report, gold: with answers; prompts: without."""
        made: dict[str, list[Row]] = {name: [] for name in ("solved", "selection", "report", "gold", "prompts")}
        for place, digits in enumerate(self.digits):
            rung = Rung(place + 1, "addition", digits)
            counts = {name: getattr(self, name)[place] for name in ("solved", "selection", "report")}
            dealt = deal(rung, counts, SPLIT_SEED)
            if str(rung.level) == self.target:
                dealt["gold"], dealt["prompts"] = dealt["prompts"][: self.gold], dealt["prompts"][self.gold :]
            dealt["prompts"] = dealt["prompts"][: self.pool]
            for name, pairs in dealt.items():
                made[name] += problems(rung, pairs, name != "prompts")
        return made

    def of_target(self, split: str) -> list[Row]:
        return [row for row in self.splits[split] if str(row["level"]) == self.target]


class Bench:
    """Runs stages on a start: each in a folder of its own below `folder`."""

    def __init__(self, world: World, start: Artifact, seed: int, folder: Path) -> None:
        self.world, self.start, self.seed, self.folder = world, start, seed, folder
        self.problems = self.asked(world.splits["prompts"], "pool")
        self._made = 0

    def asked(self, prompts: Sequence[Row], name: str, solved: Sequence[Row] = ()) -> Artifact:
        """A problems artifact of these prompts; models are chosen on the target level's selection split."""
        draft = _draft(self.folder / name, "problems")
        draft.write_jsonl("solved.jsonl", solved)
        draft.write_jsonl("selection.jsonl", self.world.of_target("selection"))
        draft.write_jsonl("prompts.jsonl", prompts)
        return draft.commit({})

    def run(self, stage: StageDefinition, settings: Settings, **inputs: Artifact) -> Artifact:
        """A stage with the bench's problems, unless others are given."""
        self._made += 1
        work = self.folder / f"work-{self._made}"
        work.mkdir()
        made = self.folder / str(self._made) / stage.name
        context = _context(work, derive_seed(self.seed, "low start", self._made), made, stage)
        return stage.function(settings, Inputs({"problems": self.problems, **inputs}), context)


def make_start(world: World, seed: int, folder: Path, work: Path) -> Artifact:
    """A model that is converged on the levels below the target and solves 1-3 % of the target's, kept in `folder`.

    First SFT on the solved problems of the other levels; then, with these going on, on the few solved problems of the
    target level, until `start_success` of the samples on its selection split are right.
    """
    if folder.exists():
        return Artifact.open(folder)
    model = Transformer(world.shape.with_vocabulary(world.tokenizer.vocabulary))
    model.init_weights(derive_seed(seed, "start weights"))
    examples = {
        name: solved_examples(world.tokenizer, [row for row in world.splits["solved"] if wanted(row)], name)
        for name, wanted in (
            ("easy", lambda row: str(row["level"]) != world.target),
            ("target", lambda row: str(row["level"]) == world.target),
        )
    }
    context, order = world.shape.context, derive_seed(seed, "start order")
    first = SupervisedBatches([(examples["easy"], EASY + TARGET)], context, order)
    steps, muon = world.start_steps, {"optimizer": "muon", "embedding_rate": 0.5, "momentum": 0.9}
    settings = _sft(steps, learning_rate=world.start_rate, warmup_steps=steps // 25, **muon)
    Trainer(model, SupervisedObjective(), first, settings, _context(work / "first", seed)).run()

    second = SupervisedBatches([(examples["easy"], EASY), (examples["target"], TARGET)], context, order + 1)
    settings = _sft(steps // 4, learning_rate=3e-4, schedule="constant", weight_decay=0.0)

    def score(model: Transformer) -> dict[str, float]:
        held = outcomes(world, model, world.of_target("selection"), seed)
        return {"value": sum(row["correct"] for row in held) / sum(row["samples"] for row in held)}

    trainer = Trainer(
        model,
        SupervisedObjective(),
        second,
        settings,
        _context(work / "second", seed),
        Validation(every=4, score=score, keep_best=False),
        watcher=_Reached(world.start_success),
    )
    trainer.run()
    draft = _draft(folder, "model")
    save_model(draft.path, model)
    for name, text in (
        ("tokenizer.json", world.tokenizer._backend.to_str()),
        ("tokenizer_config.json", "{}"),
        ("chat_template.jinja", CHAT_TEMPLATE),
    ):
        (draft.path / name).write_text(text, encoding="utf-8")
    return draft.commit({"steps_with_target": trainer.step})


class _Reached:
    """Ends training with the score that reaches the line."""

    def __init__(self, line: float) -> None:
        self._line, self._score = line, 0.0

    def alarms(self, log: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        self._score = scores[-1]["value"] if scores else 0.0
        return {}

    def ended(self, log: Sequence[Mapping[str, Any]]) -> str:
        return "reached" if self._score >= self._line else ""


def score_model(world: World, made: Artifact, seed: int) -> dict[str, Any]:
    """Held-out success of a model: by level, and of every problem of the target level."""
    model = load_model(made.path, _device())
    rows = outcomes(world, model, world.splits["report"], seed)
    levels: dict[str, list[Row]] = {}
    for row in rows:
        levels.setdefault(row["level"], []).append(row)
    return {
        "success": {
            level: sum(row["correct"] for row in own) / sum(row["samples"] for row in own)
            for level, own in levels.items()
        },
        "greedy": {level: sum(row["greedy"] for row in own) / len(own) for level, own in levels.items()},
        "samples": world.samples,
        "items": [[row["id"], row["pair"], row["correct"], int(row["greedy"])] for row in levels[world.target]],
    }


def outcomes(world: World, model: Transformer, rows: Sequence[Row], seed: int) -> list[Row]:
    """Of every problem: how many of `samples` drawn at temperature 1 are right, and whether the likeliest answer is."""
    prompts = asked_prompts(world.tokenizer, rows)
    with Scorer(RewardSettings()) as scorer:
        sampler = Sampler(
            world.tokenizer, scorer, RolloutSettings(samples=world.samples, max_tokens=MAX_TOKENS, slots=SLOTS)
        )
        groups = sampler.sample(model, prompts, derive_seed(seed, "held-out samples"))
    stops = (world.tokenizer.turn_end,)
    likeliest = Engine(model, slots=SLOTS).generate(
        [Request(prompt.tokens, MAX_TOKENS, stop_tokens=stops) for prompt in prompts]
    )
    return [
        {
            "id": row["id"],
            "level": str(row["level"]),
            "pair": "+".join(map(str, sorted(row["operands"]))),
            "samples": world.samples,
            "correct": sum(group.correct),
            "greedy": one.finish == "stop" and verify(row, world.tokenizer.decode(one.tokens)).correct,
        }
        for row, group, [one] in zip(rows, groups, likeliest, strict=True)
    ]


def _sft(steps: int, **settings: Any) -> TrainingSettings:
    return TrainingSettings(steps=steps, batch_rows=EASY + TARGET, **settings)


def _draft(folder: Path, kind: str) -> Draft:
    return Draft(folder, {"kind": kind, "stage": folder.name, "version": 1, "fingerprint": folder.name})


def _context(work: Path, seed: int, made: Path | None = None, stage: StageDefinition | None = None) -> Context:
    def ignore(kind: str, body: Mapping[str, Any]) -> None:
        pass

    def draft(kind: str) -> Draft:
        assert made is not None
        return _draft(made, kind)

    runtime = Runtime(threads=1, device="cpu")
    name = stage.name if stage is not None else "start"
    return Context(name, seed, runtime, work, draft, ignore, Progress(io.StringIO()), StopRequest())


def _device() -> torch.device:
    import torch

    return torch.device("cpu")
