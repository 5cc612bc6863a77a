"""Recipes: one typed, frozen description of a whole pipeline. YAML on disk, pydantic in memory.

A recipe file holds the reserved keys below; every other top-level key is a stage entry with the reserved keys `stage`
(which stage function; the entry's own name when absent) and `inputs` (input name -> stage entry, or a list of them);
what remains are that stage's settings. Stages run in the order of the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from pocketlm.errors import InputError
from pocketlm.pipeline.recipe_yaml import apply_override, load_yaml, parse_value
from pocketlm.pipeline.settings import Runtime, Settings
from pocketlm.pipeline.stage import InputSpecification, StageDefinition

RESERVED = ("name", "description", "seed", "model", "runtime", "scales")
Registry = Mapping[str, StageDefinition]
SettingsType = TypeVar("SettingsType", bound=Settings)


@dataclass(frozen=True)
class StageEntry:
    """One stage of a recipe. `inputs` maps input names to a stage entry's name, or to several for a list input."""

    name: str
    definition: StageDefinition
    settings: Settings
    inputs: Mapping[str, str | tuple[str, ...]]

    def input_names(self) -> list[str]:
        """The names of all stage entries that this one reads."""
        return [name for value in self.inputs.values() for name in ([value] if isinstance(value, str) else value)]


@dataclass(frozen=True)
class Recipe:
    """A validated recipe. `model` names the stage whose artifact is the run's final model."""

    name: str
    seed: int
    runtime: Runtime
    stages: Mapping[str, StageEntry]
    model: str | None = None
    description: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_yaml(self) -> str:
        """The recipe as resolved (scale and overrides applied, paths absolute), runnable again as it is."""
        document: dict[str, Any] = {"name": self.name, "description": self.description, "seed": self.seed}
        if self.model:
            document["model"] = self.model
        document["runtime"] = self.runtime.model_dump(mode="json", exclude_defaults=True)
        for entry in self.stages.values():
            body: dict[str, Any] = {}
            if entry.definition.name != entry.name:
                body["stage"] = entry.definition.name
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
            f"there is no recipe named {source!r}{_suggest(source, shipped)}; shipped recipes: "
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
    runtime = _validated(Runtime, raw.get("runtime") or {}, "runtime", where)
    stages: dict[str, StageEntry] = {}
    entries = {key: value for key, value in raw.items() if key not in RESERVED}
    if not entries:
        raise InputError(f"{where}: the recipe has no stages")
    for key, value in entries.items():
        stages[key] = _entry(key, {} if value is None else value, registry, list(entries), where)
    _check_order(stages, where)
    for entry in stages.values():
        _check_kinds(entry, stages, where)
    model = raw.get("model")
    if model is not None and (
        not isinstance(model, str) or model not in stages or stages[model].definition.output != "model"
    ):
        models = [item.name for item in stages.values() if item.definition.output == "model"]
        raise InputError(f"{where}: model: {model!r} is not a stage that makes a model; those are: {', '.join(models)}")
    return Recipe(name, seed, runtime, stages, model, str(raw.get("description") or ""), raw)


def _entry(key: str, value: Any, registry: Registry, entries: list[str], where: str) -> StageEntry:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} must be a mapping of settings, not {value!r}")
    if not key.replace("_", "").replace("-", "").isalnum():
        raise InputError(f"{where}: {key!r} is no stage name: use letters, digits, - and _")
    kind = value.get("stage", key)
    if not isinstance(kind, str) or kind not in registry:
        raise InputError(
            f"{where}: {key}: there is no stage {kind!r}{_suggest(str(kind), registry)}; stages: {', '.join(registry)}"
        )
    definition = registry[kind]
    inputs = _inputs(key, value.get("inputs") or {}, definition, entries, where)
    settings = {name: item for name, item in value.items() if name not in ("stage", "inputs")}
    return StageEntry(key, definition, _validated(definition.settings, settings, key, where), inputs)


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
                f"{_suggest(str(name), definition.inputs)}; inputs: {', '.join(definition.inputs) or 'none'}"
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
        if name not in entries:
            raise InputError(
                f"{where}: {path}: there is no stage {name!r} in this recipe{_suggest(str(name), entries)}"
            )
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


def _validated(model: type[SettingsType], value: Any, path: str, where: str) -> SettingsType:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InputError("; ".join(_explain(item, model, path, where) for item in error.errors()[:3])) from None


def _explain(item: Mapping[str, Any], model: type[Settings], path: str, where: str) -> str:
    """One line for one pydantic complaint: place, expectation, value, nearest spelling."""
    location = [str(part) for part in item["loc"]]
    place = ".".join([path, *location])
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        listed = f"; settings here: {', '.join(known)}" if known else ""
        return f"{where}: {place}: unknown setting{_suggest(location[-1], known)}{listed}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{where}: {place}: this setting is required"
    given = "" if isinstance(item.get("input"), (dict, Settings)) else f", not {item.get('input')!r}"
    return f"{where}: {place}: {message[:1].lower() + message[1:]}{given}"


def _fields_at(model: type[Settings], location: Sequence[str]) -> list[str]:
    current: Any = model
    for part in location:
        field_info = getattr(current, "model_fields", {}).get(part)
        if field_info is None:
            return []
        current = field_info.annotation
    return list(getattr(current, "model_fields", {}))


def _suggest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
