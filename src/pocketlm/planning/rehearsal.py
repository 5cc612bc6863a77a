"""A recipe in miniature, derived from the recipe itself: the same stages, inputs, sources, shares, schedules and gates,
with a tiny model of the same form, a few steps a stage, a few problems, little text.

Every setting keeps its value unless a rule here makes it smaller: by name (`CAPS`), by type (shapes, training, phases,
sources), or because what it names is not on this machine. The last kind is said loudly: `Miniature.notes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pocketlm.data.sources.source_settings import DOCUMENTATION, SourceSettings
from pocketlm.errors import InputError
from pocketlm.model.config import ModelShape, preset
from pocketlm.pipeline.recipe import Recipe, StageEntry
from pocketlm.planning.substitutes import is_here, write_substitutes
from pocketlm.planning.work import works_of
from pocketlm.training.phased_settings import PhasedSettings
from pocketlm.training.settings import TrainingSettings

STEPS = 6  # of a phase, or of a stage without phases
CONTEXT = 256  # of the shortest model: conversations and evaluation tasks need about that
STEP_TOKENS = 1024
EXAMPLES = 8  # of a step of fine-tuning
SAMPLES = 4  # of a prompt
ITEMS = 4  # of a benchmark or behaviour check
SOURCE_BYTES = 1_000_000
HELD_OUT_BYTES = 40_000
MIXTURE_TOKENS = 20_000
# Largest values of settings, wherever they stand; of tuples, of every part.
CAPS = {
    "vocabulary": 1024, "minimum_bytes": 20_000, "minimum_documents": 4, "validate_every": 3, "log_every": 2,
    "validation_documents": 4, "solved_pairs": 16, "selection_pairs": 6, "report_pairs": 6,
    "instructions_per_family": 8, "held_out_per_family": 2, "profile_prompts": 4, "prompts": 4, "prompts_per_level": 2,
    "heldout_bytes": 4000, "shown_answers": 4, "continuation_tokens": 16, "minimum_live_groups": 0.0,
    "tokens_per_parameter": 0.02, "seeds": 1, "token_budget": 4000, "rounds": 1, "rank": 4,
}  # fmt: skip


@dataclass
class Miniature:
    """A recipe as its file would hold it, and what was replaced because it is not here."""

    document: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def miniature(recipe: Recipe, folder: Path) -> Miniature:
    """The recipe in miniature, for a run in `folder`; stand-ins for sources are written beside it.

    Raises:
        InputError: the recipe itself cannot be planned (`works_of`).
    """
    small = Miniature(yaml.safe_load(recipe.to_yaml()))
    recipe = recipe.folded()  # as its file has it: what holds for an entry holds for all of its replicas
    works = {work.name: work for work in works_of(recipe)}
    document = small.document
    document["name"] = f"{recipe.name}-rehearsal"
    document["runtime"].pop("micro_batch", None)
    fixed = {name for name in recipe.stages if _imports(recipe, name)}
    shortest = min((work.model.context for work in works.values()), default=CONTEXT)
    scale = 1.0 if fixed else min(1.0, CONTEXT / shortest)
    for name in sorted(fixed):
        small.notes.append(f"{name} has the shape of an imported model, which is not made smaller")
    milestones: dict[str, dict[int, int]] = {}
    contexts: dict[str, int] = {}
    for entry in recipe.stages.values():
        body = document[entry.name]
        _cap(body)
        if entry.definition.output == "tokenizer":
            _tokenizer(entry, body, small)
        if isinstance(entry.settings, TrainingSettings):
            contexts[entry.name] = _training(entry, body, scale, entry.name in fixed, works[entry.name].model.context)
            start = entry.inputs.get("start")
            if isinstance(start, str) and body.get("start_at") is not None:
                body["start_at"] = milestones[start].get(body["start_at"], body["start_at"])
            step = body["batch_rows"] * contexts[entry.name]
            milestones[entry.name] = _milestones(body, works[entry.name].milestones, works[entry.name].tokens, step)
        elif "rollouts" in body:
            _sampling(entry, body, scale)
        elif "max_tokens" in body:
            body["max_tokens"] = _scaled(body["max_tokens"], scale)
        if "proxies" in body:
            body["proxies"] = [min(body["proxies"], key=lambda name: preset(name).parameter_count())]
        if "contamination" in body:
            _curation(entry.name, body, small)
        if entry.definition.output == "evaluation" and "benchmarks" in body:
            _leave_out_absent(f"{entry.name}.benchmarks", body["benchmarks"], small)
            if body["benchmarks"] or body["behaviour"]:
                body["limit"] = ITEMS
    _mixtures(recipe, document, contexts, small)
    _sources(recipe, document, folder, small)
    return small


def _imports(recipe: Recipe, name: str) -> bool:
    """Whether a stage's model comes, over any number of stages, from one that was imported."""
    entry = recipe.stages[name]
    if entry.definition.output != "model":
        return False
    models = [source for source in entry.input_names() if recipe.stages[source].definition.output == "model"]
    own = isinstance(getattr(entry.settings, "model", None), ModelShape)
    return any(_imports(recipe, source) for source in models) if models else not own


def _cap(body: dict[str, Any]) -> None:
    for key, value in body.items():
        if isinstance(value, dict) and key != "inputs":
            _cap(value)
        elif key in CAPS and isinstance(value, list):
            body[key] = [min(part, CAPS[key]) for part in value]
        elif key in CAPS and isinstance(value, (int, float)):
            body[key] = min(value, CAPS[key])


def _tokenizer(entry: StageEntry, body: dict[str, Any], small: Miniature) -> None:
    path = body.get("path")
    if path is None:
        return
    if is_here(path):  # kept, so that one that does not fit is found out
        del body["vocabulary"], body["maximum_bytes"]
        return
    body["path"] = None
    small.notes.append(f"SUBSTITUTED {entry.name}.path: {path} is not here, a tokenizer is learned instead")


def _training(entry: StageEntry, body: dict[str, Any], scale: float, fixed: bool, context: int) -> int:
    """Shape, length and batch of a training stage; the schedule keeps its form. Returns its model's context."""
    shape: Any = body.get("model")
    phases = body.get("phases") or []
    if isinstance(entry.settings, PhasedSettings):
        if isinstance(shape, dict) and not fixed:
            _shape(shape, scale)
            context = shape["context"]
        for phase in phases:
            phase["context"] = phase["context"] and _scaled(phase["context"], scale)
        body["batch_rows"] = _rows(context, [phase["context"] or context for phase in phases])
    elif "rollouts" in body:
        rollouts = body["rollouts"]
        rollouts["samples"] = min(rollouts["samples"], SAMPLES)
        rollouts["max_tokens"] = _scaled(rollouts["max_tokens"], scale)
        body["batch_rows"] = 2 * rollouts["samples"]
    else:
        body["batch_rows"] = min(body["batch_rows"], EXAMPLES)
        body["max_tokens"] = _scaled(body["max_tokens"], scale)
    if not phases:
        body["steps"] = min(body["steps"], STEPS)
        body["warmup_steps"] = min(body["warmup_steps"], body["steps"] // 3)
    for phase in phases:
        phase["tokens"] = STEPS * body["batch_rows"] * context
        phase["warmup_steps"] = min(phase["warmup_steps"], STEPS // 3)
    return context


def _sampling(entry: StageEntry, body: dict[str, Any], scale: float) -> None:
    """A stage that only samples. It judges by its share of live groups and ends nothing, so that the share stays."""
    settings: Any = entry.settings
    rollouts = body["rollouts"]
    rollouts["samples"] = min(rollouts["samples"], SAMPLES)
    rollouts["max_tokens"] = _scaled(rollouts["max_tokens"], scale)
    body["minimum_live_groups"] = settings.minimum_live_groups
    if body["group_size"] is not None:
        body["group_size"] = min(body["group_size"], SAMPLES)


def _shape(shape: dict[str, Any], scale: float) -> None:
    """Two layers of the same form: query heads share keys in the same groups, proportions of the widths stay."""
    groups = shape["heads"] // shape["kv_heads"]
    kv_heads = min(shape["kv_heads"], 2)
    head_dim = min(shape["head_dim"], 8)
    width = max(2, round(shape["width"] * kv_heads * head_dim / (shape["kv_heads"] * shape["head_dim"])))
    shape["ffn_width"] = max(1, round(shape["ffn_width"] * width / shape["width"]))
    shape |= {"width": width, "layers": min(shape["layers"], 2), "heads": kv_heads * groups, "kv_heads": kv_heads}
    shape["head_dim"] = head_dim
    shape["context"] = _scaled(shape["context"], scale)
    if shape["rope_scaling"]:
        shape["rope_scaling"]["original_context"] = _scaled(shape["rope_scaling"]["original_context"], scale)


def _rows(context: int, contexts: list[int]) -> int:
    """Rows of a step of about STEP_TOKENS tokens that phases of these contexts can divide."""
    least = max(1, STEP_TOKENS // context)
    step = math.lcm(*(length // math.gcd(length, context) for length in contexts)) if contexts else 1
    return -(-least // step) * step


def _milestones(body: dict[str, Any], kept: tuple[int, ...], tokens: int, step: int) -> dict[int, int]:
    """Milestones at the same shares of the run, of `step` tokens a step; returns where each went, by its tokens."""
    if not kept:
        return {}
    steps = STEPS * len(body["phases"]) if body["phases"] else body["steps"]
    moved = {old: min(steps, max(1, -(-old * steps // tokens))) * step for old in kept}
    body["milestones"] = list(dict.fromkeys(moved.values()))
    return moved


def _curation(name: str, body: dict[str, Any], small: Miniature) -> None:
    if "held_out" in body:
        body["held_out"]["maximum_bytes"] = min(body["held_out"]["maximum_bytes"], HELD_OUT_BYTES)
    _leave_out_absent(f"{name}.contamination.benchmarks", body["contamination"]["benchmarks"], small)
    if body.get("language_model") and not is_here(body["language_model"]):
        small.notes.append(f"LEFT OUT {name}.language_model: {body['language_model']} is not here")
        body["language_model"] = None
        for gates in (body["gates"], *body["source_gates"].values()):
            gates.pop("minimum_language_confidence", None)


def _leave_out_absent(setting: str, benchmarks: dict[str, Any], small: Miniature) -> None:
    absent = [key for key, item in benchmarks.items() if item["path"] is None or not is_here(item["path"])]
    for key in absent:
        del benchmarks[key]
    if absent:
        small.notes.append(f"LEFT OUT {setting}: {', '.join(absent)} would be downloaded")


def _mixtures(recipe: Recipe, document: dict[str, Any], contexts: dict[str, int], small: Miniature) -> None:
    """Every mixture releases what the phases in miniature read of it; replays of other runs have other token ids."""
    for entry in recipe.stages.values():
        body = document[entry.name]
        if "shares" not in body or "tokens" not in body:
            continue
        read = max((sum(_reads(recipe, document, contexts, name, entry.name)) for name in recipe.stages), default=0)
        body["tokens"] = min(body["tokens"], 2 * read or MIXTURE_TOKENS)
        replayed = [name for name in body.get("replay", {}) if name in body["shares"]]
        if body.get("replay"):
            small.notes.append(f"LEFT OUT {entry.name}.replay: tokens of other runs ({', '.join(body['replay'])})")
            body["replay"] = {}
        if not replayed:
            continue
        left = {name: share for name, share in body["shares"].items() if name not in replayed}
        if not left:
            raise InputError(f"{entry.name}: all of its shares are replays of other runs; there is nothing to rehearse")
        body["shares"] = {name: share / sum(left.values()) for name, share in left.items()}


def _reads(
    recipe: Recipe, document: dict[str, Any], contexts: dict[str, int], reader: str, mixture: str
) -> Iterator[int]:
    """Tokens that the phases of a stage read of a mixture."""
    inputs, body = recipe.stages[reader].inputs.get("tokens", ()), document[reader]
    names = [inputs] if isinstance(inputs, str) else list(inputs)
    if mixture not in names or not isinstance(recipe.stages[reader].settings, PhasedSettings):
        return
    if not body["phases"]:
        yield body["steps"] * body["batch_rows"] * contexts[reader]
    data = names[0]
    for phase in body["phases"]:
        data = phase["data"] or data
        if data == mixture:
            yield phase["tokens"]


def _sources(recipe: Recipe, document: dict[str, Any], folder: Path, small: Miniature) -> None:
    """A little of every source that is here; documentation in place of the others."""
    absent: list[tuple[str, str, SourceSettings]] = []
    for entry in recipe.stages.values():
        for name, source in (getattr(entry.settings, "by_name", None) or {}).items():
            body = _source_of(document, entry.name, name)
            if is_here(source.path):
                body["maximum_bytes"] = min(source.maximum_bytes or SOURCE_BYTES, SOURCE_BYTES)
                continue
            absent.append((entry.name, name, source))
            body |= {"revision": None, "maximum_documents": None, "maximum_bytes": None, "sample_share": 1.0}
            reason = "is remote" if "://" in source.path else "is not here (a run would refuse it)"
            small.notes.append(f"SUBSTITUTED {entry.name}.{name}: {source.path} {reason}; {DOCUMENTATION} instead")
    if not absent:
        return
    beside = folder.absolute().with_name(f"{folder.name}-substitutes")
    named = [(f"{stage}.{name}", source) for stage, name, source in absent]
    allowed = [getattr(entry.settings, "allowed_licences", None) or () for entry in recipe.stages.values()]
    licence = next((names[0] for names in allowed if names), "MIT")
    for (stage, name, _), path in zip(absent, write_substitutes(beside, named, licence), strict=True):
        _source_of(document, stage, name)["path"] = str(path)


def _source_of(document: dict[str, Any], stage: str, name: str) -> dict[str, Any]:
    """Where a source stands: among the settings of its stage, or under `sources`."""
    body: dict[str, Any] = document[stage]
    source: dict[str, Any] = body.get("sources", body)[name]
    return source


def _scaled(value: int, scale: float) -> int:
    return max(min(value, 6), round(value * scale))
