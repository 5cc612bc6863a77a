"""The three ways of the `distil` stage, each as what a trainer takes: objective, batches and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pocketlm.errors import InputError
from pocketlm.pipeline.storage import sha256_file
from pocketlm.posttraining.distillation.batches import LikeliestBatches, StudentBatches, verified_texts
from pocketlm.posttraining.distillation.cache import TeacherCache
from pocketlm.posttraining.distillation.objectives import LikeliestObjective, TeacherObjective
from pocketlm.posttraining.examples import Example, solved_examples
from pocketlm.posttraining.folder import open_model
from pocketlm.posttraining.scoring import selection_validation
from pocketlm.posttraining.settings import steps_within
from pocketlm.posttraining.sft.example_store import Account, sample_examples
from pocketlm.posttraining.sft.supervised import SupervisedBatches, SupervisedObjective
from pocketlm.problems.calculator_tool import tool_named
from pocketlm.training.device import compute_type, prepare

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.pipeline.stage import Inputs
    from pocketlm.posttraining.distillation.distillation_settings import DistilSettings
    from pocketlm.posttraining.judging import SelectionJudge
    from pocketlm.posttraining.rollouts.inputs import RolloutInputs
    from pocketlm.training.batches import BatchSource
    from pocketlm.training.objective import Objective
    from pocketlm.training.validation import Validation


@dataclass(frozen=True)
class Plan:
    """What is trained on what. `facts` are metrics; `levels` are those of the problems that choose."""

    model: Transformer
    objective: Objective
    batches: BatchSource
    validation: Validation
    levels: Sequence[str]
    steps: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def selection(self) -> int:
        """Problems that choose."""
        return len(self.levels)


def require_one_tokenizer(inputs: Inputs) -> None:
    """InputError when teacher and student do not have the same."""
    teacher, student = inputs["teacher"], inputs["model"]
    if sha256_file(teacher.file("tokenizer.json")) != sha256_file(student.file("tokenizer.json")):
        raise InputError(
            f"distil: {teacher.stage} and {student.stage} have different tokenizers, so that the teacher's "
            "probabilities are of other tokens than the student's; let a `sample` stage write the teacher's answers "
            "and learn from these with method sequence, or take a teacher of the same tokenizer"
        )


def plan_on_policy(settings: DistilSettings, given: RolloutInputs, inputs: Inputs, context: Context) -> Plan:
    """The student samples, the teacher says what it would have said at every token."""
    if settings.batch_rows % settings.rollouts.samples:
        raise InputError(
            f"distil.batch_rows is {settings.batch_rows}, no multiple of distil.rollouts.samples "
            f"({settings.rollouts.samples}); a step takes whole groups"
        )
    teacher = _teacher(inputs["teacher"], given.model)
    count = settings.batch_rows // settings.rollouts.samples
    batches = StudentBatches(given.sampler, given.prompts, count, context.seed("student samples"))
    validation = given.validation(settings.validate_every, settings.patience)
    objective = TeacherObjective(teacher, settings.beta)
    facts = {"prompts": len(given.prompts), "prompts.left_out": len(given.left_out)}
    return Plan(
        given.model, objective, batches, validation, [one.level for one in given.selection], settings.steps, facts
    )


def plan_on_examples(settings: DistilSettings, inputs: Inputs, judge: SelectionJudge, context: Context) -> Plan:
    """Methods `top_k` and `sequence`: a fixed set of examples. `judge` is asked of answers on the selection split."""
    model, tokenizer = open_model(inputs["model"], prepare(context.runtime))
    longest = model.settings.context
    tool = tool_named(settings.rollouts.tool, tokenizer)
    examples, left_out = _examples(settings.method, inputs, tokenizer, longest, tool is not None)
    facts: dict[str, Any] = {"examples": len(examples), "examples.left_out": left_out}
    batches: LikeliestBatches | SupervisedBatches
    objective: Objective
    if settings.method == "top_k":
        teacher = _teacher(inputs["teacher"], model)
        cache = TeacherCache(context.work / "teacher", teacher, examples, settings.k, settings.maximum_megabytes)

        def after_each(blocks: int) -> None:
            context.check_stop()
            context.progress(blocks, cache.blocks, unit="block of the teacher's answers")

        cache.fill(after_each, compute_type(teacher.head_weight_VD.device, context.runtime.precision))
        facts |= {"teacher.positions": cache.positions, "teacher.mass_left_out": cache.mass_left_out()}
        batches = LikeliestBatches(examples, cache, settings.batch_rows, longest, context.seed("distillation order"))
        objective = LikeliestObjective()
    else:
        sources = [(examples, settings.batch_rows)]
        batches = SupervisedBatches(sources, longest, context.seed("distillation order"))
        objective = SupervisedObjective()
    steps = steps_within(inputs.get("budget"), batches, settings.steps)
    selection = inputs["problems"].read_jsonl("selection.jsonl")
    every, most = settings.validate_every, settings.rollouts.max_tokens
    validation = selection_validation(tokenizer, selection, judge, most, every, settings.patience, tool=tool)
    return Plan(model, objective, batches, validation, [str(row["level"]) for row in selection], steps, facts)


def data_digest(inputs: Inputs) -> str:
    """Of all that the batches are made from."""
    named = ((name, inputs.get(name)) for name in ("problems", "samples", "teacher"))
    return " ".join(f"{name} {artifact.digest}" for name, artifact in named if artifact is not None)


def _examples(
    method: str, inputs: Inputs, tokenizer: Tokenizer, longest: int, calculator: bool
) -> tuple[list[Example], int]:
    samples, problems = inputs.get("samples"), inputs["problems"]
    if samples is not None and method == "sequence":
        examples, left_out = verified_texts(tokenizer, samples.read_jsonl("samples.jsonl"), longest, calculator)
    elif samples is not None:
        account = Account()
        examples = list(sample_examples(tokenizer, samples.read_jsonl("samples.jsonl"), longest, account))
        left_out = account.too_long
    else:
        rows = problems.read_jsonl("solved.jsonl") if "solved.jsonl" in problems.manifest["files"] else []
        solved = solved_examples(tokenizer, rows, "solved.jsonl", calculator)
        examples = [one for one in solved if len(one.tokens) - 1 <= longest]
        left_out = len(solved) - len(examples)
    if not examples:
        origin = (
            f"{samples.stage} holds no right completion" if samples else f"{problems.stage} holds no solved problem"
        )
        raise InputError(f"distil: {origin} that fits a context of {longest} ({left_out} are longer); give more")
    return examples, left_out


def _teacher(artifact: Artifact, student: Transformer) -> Transformer:
    teacher, _ = open_model(artifact, student.head_weight_VD.device)
    if teacher.settings.context < student.settings.context:
        raise InputError(
            f"distil: the teacher {artifact.stage} has a context of {teacher.settings.context}, the student one of "
            f"{student.settings.context}; a teacher must be able to read all that its student can"
        )
    return teacher.requires_grad_(False)
