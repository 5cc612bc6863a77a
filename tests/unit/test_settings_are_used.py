"""Every field of every settings class is read somewhere: a flag that nothing reads is a lie to its user.

A field counts as read when a module that names its class (or a class that inherits or nests it) reads an attribute of
that name from something that is not `self` alone, or when the class reads it from `self` in a method.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pocketlm
from pocketlm.pipeline.settings import Settings

SOURCE = Path(pocketlm.__file__).parent
LIGHT_ROOMS = ("pipeline", "stages", "data", "model", "training", "posttraining", "problems", "evaluation", "planning")


def settings_classes() -> list[type[Settings]]:
    for room in LIGHT_ROOMS:
        package = importlib.import_module(f"pocketlm.{room}")
        for module in pkgutil.iter_modules(package.__path__):
            if "settings" in module.name or room in ("stages", "pipeline") or module.name == "config":
                importlib.import_module(f"pocketlm.{room}.{module.name}")
    found: list[type[Settings]] = []
    pending: list[type[Settings]] = [Settings]
    while pending:
        for child in pending.pop().__subclasses__():
            pending.append(child)
            if child.__module__.startswith("pocketlm."):
                found.append(child)
    return found


def names_and_reads(path: Path) -> tuple[set[str], set[str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    reads = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    if "runtime" in reads:
        names.add("Runtime")  # handed out by the context, so that no stage names its class
    return names, reads


def unused_fields(classes: list[type[Settings]], modules: list[tuple[set[str], set[str]]]) -> list[str]:
    unused = []
    for owner in classes:
        relatives = {item.__name__ for item in classes if issubclass(item, owner) or owner.__name__ in _mentions(item)}
        reads = {name for names, found in modules if names & (relatives | {owner.__name__}) for name in found}
        inherited = {name for base in owner.__mro__[1:] for name in getattr(base, "model_fields", {})}
        own_fields = [name for name in inspect.get_annotations(owner) if name not in inherited]
        unused += [f"{owner.__module__}.{owner.__name__}.{name}" for name in own_fields if name not in reads]
    return unused


def _mentions(item: type[Settings]) -> str:
    return " ".join(str(field.annotation) for field in item.model_fields.values())


def test_every_settings_field_is_read() -> None:
    classes = settings_classes()
    assert len(classes) > 12, [inspect.getfile(item) for item in classes]
    modules = [names_and_reads(path) for path in sorted(SOURCE.rglob("*.py"))]
    assert unused_fields(classes, modules) == []


def test_the_test_finds_an_unused_field() -> None:
    class Forgotten(Settings):
        used_field: int = 1
        nobody_reads_this: int = 2

    module = ({"Forgotten"}, {"used_field"})
    assert [name.rpartition(".")[2] for name in unused_fields([Forgotten], [module])] == ["nobody_reads_this"]
