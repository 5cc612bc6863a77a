"""Recipes: one typed, frozen description of a whole pipeline. YAML on disk, pydantic in memory.

A recipe file holds the reserved keys below; every other top-level key is a stage entry with the reserved keys `stage`
(which stage function; the entry's own name when absent), `inputs` (input name -> stage entry, or a list of them) and
`seeded` (made once for each of the recipe's `seeds`: `replicas.py`); what remains are that stage's settings. Stages run
in the order of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from pocketlm.errors import InputError
from pocketlm.pipeline.recipe_yaml import RESERVED, apply_override, load_yaml, parse_value
from pocketlm.pipeline.replicas import (
    SEPARATOR,
    entry_of,
    inputs_of_replica,
    is_seeded,
    replica_name,
    replicated,
    require_replicas,
    seeds_in,
)
from pocketlm.pipeline.settings import Runtime, Settings
from pocketlm.pipeline.stage import InputSpecification, StageDefinition
from pocketlm.pipeline.validation import suggest, validated

Registry = Mapping[str, StageDefinition]


@dataclass(frozen=True)
class StageEntry:
    """One stage of a recipe. `inputs` maps input names to a stage entry's name, or to several for a list input.

    `seed` is that of a replica; None stands for the recipe's.
    """

    name: str
    definition: StageDefinition
    settings: Settings
    inputs: Mapping[str, str | tuple[str, ...]]
    seed: int | None = None

    @property
    def entry(self) -> str:
        """Its name in the recipe file, which all replicas of an entry share."""
        return entry_of(self.name)

    def input_names(self) -> list[str]:
        """The names of all stage entries that this one reads."""
        return [name for value in self.inputs.values() for name in ([value] if isinstance(value, str) else value)]


@dataclass(frozen=True)
class Recipe:
    """A validated recipe. `model` names the stage whose artifact is the run's final model.

    `stages` is what runs: an entry of the file that is made for several seeds stands in it once for each. `entries` are
    those of the file, `seeded` the ones that are marked so.
    """

    name: str
    seed: int
    runtime: Runtime
    stages: Mapping[str, StageEntry]
    model: str | None = None
    description: str = ""
    seeds: tuple[int, ...] = ()
    entries: Mapping[str, StageEntry] = field(default_factory=dict, repr=False)
    seeded: frozenset[str] = frozenset()

    def seed_of(self, stage: StageEntry) -> int:
        """The seed that a stage's random streams are derived from."""
        return self.seed if stage.seed is None else stage.seed

    def folded(self) -> Recipe:
        """The recipe as though every entry were made once: `stages` are the entries of the file."""
        folded = {
            entry.name: replace(
                entry,
                inputs={
                    name: entry_of(value) if isinstance(value, str) else tuple(dict.fromkeys(map(entry_of, value)))
                    for name, value in entry.inputs.items()
                },
            )
            for entry in self.entries.values()
        }
        return replace(self, stages=folded)

    def to_yaml(self) -> str:
        """The recipe as resolved (scale and overrides applied, paths absolute), runnable again as it is."""
        document: dict[str, Any] = {"name": self.name, "description": self.description, "seed": self.seed}
        if self.seeds:
            document["seeds"] = list(self.seeds)
        if self.model:
            document["model"] = self.model
        document["runtime"] = self.runtime.model_dump(mode="json", exclude_defaults=True)
        for entry in self.entries.values():
            body: dict[str, Any] = {}
            if entry.definition.name != entry.name:
                body["stage"] = entry.definition.name
            if entry.name in self.seeded:
                body["seeded"] = True
            if entry.inputs:
                body["inputs"] = {
                    name: value if isinstance(value, str) else list(value) for name, value in entry.inputs.items()
                }
            document[entry.name] = {**body, **entry.settings.model_dump(mode="json", exclude_defaults=False)}
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def recipe_folder() -> Path:
    """The folder of the recipes that are shipped with the package."""
    return Path(__file__).resolve().parent.parent / "recipes"


def load_recipe(
    source: str | Path, registry: Registry, overrides: Sequence[str] = (), scale: str | None = None
) -> Recipe:
    """Read a shipped recipe by name or a YAML file, apply a scale and `PATH=VALUE` overrides, validate everything.

    Raises InputError with the path to the setting, what was expected, and the nearest valid spelling.
    """
    path = _find(str(source))
    raw = load_yaml(path)
    scales = raw.pop("scales", None) or {}
    if scale is not None:
        if not isinstance(scales, dict) or not isinstance(scales.get(scale), dict):
            raise InputError(f"{path.name} has no scale {scale!r}; it has: {', '.join(map(str, scales)) or 'none'}")
        for setting, value in scales[scale].items():
            apply_override(raw, setting, value, RESERVED)
    for override in overrides:
        setting, equals, text = override.partition("=")
        if not equals or not setting.strip():
            raise InputError(f"--set {override}: expected PATH=VALUE, for instance pretrain.steps=200")
        apply_override(raw, setting.strip(), parse_value(text), RESERVED)
    return parse_recipe(raw, registry, path.name)


def _find(source: str) -> Path:
    path = Path(source).expanduser()
    shipped = {item.stem: item for item in sorted(recipe_folder().glob("*.yaml"))}
    if path.suffix in (".yaml", ".yml") or "/" in source:
        if not path.is_file():
            raise InputError(f"there is no recipe file {path}; shipped recipes: {', '.join(shipped)}")
        return path
    if source not in shipped:
        raise InputError(
            f"there is no recipe named {source!r}{suggest(source, shipped)}; shipped recipes: "
            f"{', '.join(shipped)}; a file of your own needs the ending .yaml"
        )
    return shipped[source]


def parse_recipe(raw: Mapping[str, Any], registry: Registry, where: str) -> Recipe:
    """Validate the mapping of a recipe file; `where` is its name in messages."""
    name = raw.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: the recipe needs a `name`")
    seed = raw.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"{where}: seed must be a whole number, not {seed!r}")
    seeds = seeds_in(raw.get("seeds"), where)
    runtime = validated(Runtime, raw.get("runtime") or {}, "runtime", where)
    bodies = {key: {} if value is None else value for key, value in raw.items() if key not in RESERVED}
    if not bodies:
        raise InputError(f"{where}: the recipe has no stages")
    entries = {key: _entry(key, body, registry, list(bodies), where) for key, body in bodies.items()}
    seeded = frozenset(key for key, body in bodies.items() if is_seeded(body.get("seeded", False), key, seeds, where))
    if seeds and not seeded:
        raise InputError(f"{where}: seeds: no stage is made with them; mark those that are with `seeded: true`")
    stages = _stages(entries, seeds, seeded, where)
    _check_order(stages, where)
    for entry in stages.values():
        _check_kinds(entry, stages, where)
    model = raw.get("model")
    if model is not None and (
        not isinstance(model, str) or model not in stages or stages[model].definition.output != "model"
    ):
        models = [item.name for item in stages.values() if item.definition.output == "model"]
        raise InputError(f"{where}: model: {model!r} is not a stage that makes a model; those are: {', '.join(models)}")
    description = str(raw.get("description") or "")
    return Recipe(name, seed, runtime, stages, model, description, seeds, entries, seeded)


def _stages(
    entries: Mapping[str, StageEntry], seeds: tuple[int, ...], seeded: frozenset[str], where: str
) -> dict[str, StageEntry]:
    """What runs: every entry, or its replicas."""
    copies = replicated({name: entry.inputs for name, entry in entries.items()}, seeded)
    stages: dict[str, StageEntry] = {}
    for entry in entries.values():
        for seed in seeds if entry.name in copies else (None,):
            name, inputs = replica_name(entry.name, seed), inputs_of_replica(entry.inputs, seed, seeds, copies)
            stages[name] = replace(entry, name=name, inputs=inputs, seed=seed)
    for stage in stages.values():
        require_replicas(stage.entry, stage.inputs, stages, where)
    return stages


def _entry(key: str, value: Any, registry: Registry, entries: list[str], where: str) -> StageEntry:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} must be a mapping of settings, not {value!r}")
    if not key.replace("_", "").replace("-", "").isalnum():
        raise InputError(f"{where}: {key!r} is no stage name: use letters, digits, - and _")
    kind = value.get("stage", key)
    if not isinstance(kind, str) or kind not in registry:
        raise InputError(
            f"{where}: {key}: there is no stage {kind!r}{suggest(str(kind), registry)}; stages: {', '.join(registry)}"
        )
    definition = registry[kind]
    inputs = _inputs(key, value.get("inputs") or {}, definition, entries, where)
    settings = {name: item for name, item in value.items() if name not in ("stage", "inputs", "seeded")}
    entry = StageEntry(key, definition, validated(definition.settings, settings, key, where), inputs)
    if definition.missing is not None and (fault := definition.missing(entry.settings, inputs)):
        raise InputError(f"{where}: {key}: {fault}")
    return entry


def _inputs(
    key: str, value: Any, definition: StageDefinition, entries: list[str], where: str
) -> dict[str, str | tuple[str, ...]]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key}.inputs must map input names to stages, not {value!r}")
    resolved: dict[str, str | tuple[str, ...]] = {}
    for name, reference in value.items():
        if name not in definition.inputs:
            raise InputError(
                f"{where}: {key}.inputs.{name}: {definition.name} has no such input"
                f"{suggest(str(name), definition.inputs)}; inputs: {', '.join(definition.inputs) or 'none'}"
            )
        resolved[name] = _references(f"{key}.inputs.{name}", reference, definition.inputs[name], key, entries, where)
    missing = [name for name, item in definition.inputs.items() if not item.optional and name not in resolved]
    if missing:
        raise InputError(f"{where}: {key}.inputs lacks {', '.join(missing)}: name the stage that it comes from")
    return resolved


def _references(
    path: str, reference: Any, specification: InputSpecification, key: str, entries: list[str], where: str
) -> str | tuple[str, ...]:
    if specification.many:
        listed = entries[: entries.index(key)] if reference == "*" else reference
        listed = [listed] if isinstance(listed, str) else listed
        if not isinstance(listed, list) or not listed:
            raise InputError(f'{where}: {path} takes a stage, a list of them or "*" (all before), not {reference!r}')
    else:
        listed = [reference]
    for number, name in enumerate(listed):
        if name in listed[:number]:
            raise InputError(f"{where}: {path} names {name} twice; name every stage once")
        if name not in entries and not (SEPARATOR in str(name) and entry_of(str(name)) in entries):
            raise InputError(f"{where}: {path}: there is no stage {name!r} in this recipe{suggest(str(name), entries)}")
    return tuple(listed) if specification.many else listed[0]


def _check_order(stages: Mapping[str, StageEntry], where: str) -> None:
    """Every reference points to an earlier entry; a cycle is named as such."""
    seen: set[str] = set()
    for entry in stages.values():
        for name in entry.input_names():
            if name not in seen:
                trail = _cycle(entry.name, stages)
                if trail:
                    raise InputError(f"{where}: the stages {' -> '.join(trail)} depend on each other in a cycle")
                raise InputError(f"{where}: {entry.name} reads {name}, which comes later: move {name} before it")
        seen.add(entry.name)


def _cycle(start: str, stages: Mapping[str, StageEntry]) -> list[str] | None:
    trail: list[str] = []
    finished: set[str] = set()

    def visit(name: str) -> list[str] | None:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in finished:
            return None
        trail.append(name)
        for other in stages[name].input_names():
            if found := visit(other):
                return found
        trail.pop()
        finished.add(name)
        return None

    return visit(start)


def _check_kinds(entry: StageEntry, stages: Mapping[str, StageEntry], where: str) -> None:
    for name, reference in entry.inputs.items():
        specification = entry.definition.inputs[name]
        for source in [reference] if isinstance(reference, str) else reference:
            made = stages[source].definition.output
            if not specification.accepts(made):
                raise InputError(
                    f"{where}: {entry.name}.inputs.{name} needs a stage that makes {specification.kind}, "
                    f"but {source} makes {made}"
                )
