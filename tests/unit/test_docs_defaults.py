"""Each default that a page states is the one of the code, and each default of a stage is stated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic_core import PydanticUndefined, to_jsonable_python

from pocketlm.data.gates.gate_settings import GateSettings
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.pipeline.settings import Settings
from pocketlm.stages import STAGES, registry
from pocketlm.training.phases import Phase
from pocketlm.training.settings import TrainingSettings
from tests.docs_pages import INLINE, LINK, PAGES, PLACEHOLDER, ROOT, name_of

NO_STAGE: dict[str, type[Settings]] = {"training.md": TrainingSettings, "pretrain.md": Phase, "gates.md": GateSettings}
"""Pages that name settings without a stage, and whose settings these are."""
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
BY_STAGE = "by stage"
ONE_DEFAULT = re.compile(rf"`[^`]+`|required|unset|its own|{BY_STAGE}")
"""A value as YAML, or a word: `its own` stands for a group of settings that is there by default."""


def stated_defaults(page: Path) -> dict[str, str]:
    """Setting -> its default, as the tables of a page state it. Each row must have one, or one for each setting."""
    found: dict[str, str] = {}
    for table in TABLE.findall(page.read_text(encoding="utf-8")):
        header, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table.splitlines()]
        if not re.match("setting|alarm", header[0]):
            continue
        assert "default" in header, f"{page.name}: the table of {rows[0][0]} has no column for the default"
        for row in rows:
            names, cell = INLINE.findall(row[0]), row[header.index("default")]
            if page.name == "gates.md":  # numbers only, and an empty cell is off
                cell = f"`{cell}`" if cell else "unset"
            values = ONE_DEFAULT.findall(cell)
            assert values, f"{page.name}: {row[0]} has no default"
            assert cell == ", ".join(values), f"{page.name}: the default of {row[0]} is {cell!r}"
            found |= dict(zip(names, values * len(names) if len(values) == 1 else values, strict=True))
    return found


def says(stated: str, default: Any) -> bool:
    """Whether a stated default is the one that the code has."""
    if default is PydanticUndefined:
        return stated == "required"
    if default is None or isinstance(default, Settings):
        return stated == ("unset" if default is None else "its own")
    value = yaml.safe_load(stated.strip("`")) if stated.startswith("`") else None
    return json.dumps(value) == json.dumps(to_jsonable_python(default))


def default_at(model: type[Settings], parts: list[str], group: Settings | None = None) -> Any:
    """The default of a setting; within a group that of the group's default, which may be another than its class has."""
    field = model.model_fields[parts[0]]
    value = field.get_default(call_default_factory=True) if group is None else getattr(group, parts[0])
    rest = parts[2:] if parts[1:2] == [PLACEHOLDER] else parts[1:]
    if not rest:
        return value
    return default_at(next(_groups(field.annotation)), rest, value if isinstance(value, Settings) else None)


def _groups(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for inner in get_args(annotation):
        yield from _groups(inner)


def defaults_of(model: type[Settings], group: Settings | None = None) -> Iterator[tuple[str, Any]]:
    """(dotted path, default) of all settings, of groups too where they may be unset."""
    for name, field in model.model_fields.items():
        value = default_at(model, [name], group)
        if isinstance(value, Settings):
            yield from ((f"{name}.{path}", inner) for path, inner in defaults_of(type(value), value))
        if not isinstance(value, Settings) or field.annotation is not type(value):
            yield name, value


def wrong_defaults(page: Path) -> list[str]:
    """Settings of which a page states another default than the code has."""
    wrong = []
    for name, stated in stated_defaults(page).items():
        first, *rest = name.split(".")
        if first == "sources":  # the second part is the name of a source
            default = default_at(SourceSettings, rest[1:])
        elif first in registry() and rest:
            default = default_at(registry()[first].settings, rest)
        else:
            default = default_at(NO_STAGE[page.name], [first, *rest])
        if not says(stated, default) and not (page.name == "training.md" and stated == BY_STAGE):
            wrong.append(f"{name}: {stated}, but it is {default!r}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_stated_defaults_are_those_of_the_code(page: Path) -> None:
    assert not wrong_defaults(page)


@pytest.mark.parametrize("stage", STAGES)
def test_every_default_of_a_stage_is_stated(stage: str) -> None:
    """On its page; what all training stages share on theirs, and a group that another stage has too on a linked one."""
    page = ROOT / "docs" / "stages" / f"{stage}.md"
    links = [(page.parent / target).resolve() for target in LINK.findall(page.read_text(encoding="utf-8"))]
    elsewhere: dict[str, str] = {}
    for link in (link for link in links if link.suffix == ".md"):
        for name, stated in stated_defaults(link).items():
            if link.name == "training.md":
                elsewhere[name] = stated
            elif name.count(".") > 1:
                elsewhere.setdefault(name.partition(".")[2], stated)
    here = stated_defaults(page)
    settings = registry()[stage].settings if stage != "sources" else SourceSettings
    for path, default in defaults_of(settings):
        name = f"{stage}.{path}" if stage != "sources" else f"sources.docs.{path}"
        if not name.startswith("curate.gates."):  # their page leaves out what is no threshold
            stated = here.get(name) or elsewhere.get(path, "not stated")
            assert says(stated, default), f"{name} is {default!r}, which {name_of(page)} must say; it is {stated}"


def test_a_wrong_or_missing_default_is_found(tmp_path: Path) -> None:
    page = tmp_path / "pretrain.md"
    table = "| setting | default | meaning |\n| --- | --- | --- |\n| `sft.steps`, `sft.patience` | {} | |\n"
    for stated, wrong in (("`800`, `8`", 0), ("`800`", 1), ("unset, `8`", 1), ("required, `8.0`", 2)):
        page.write_text(table.format(stated), encoding="utf-8")
        assert len(wrong_defaults(page)) == wrong
    for text in (table.format(""), table.format("800, `8`"), table.replace(" default |", "").replace(" {} |", "")):
        page.write_text(text, encoding="utf-8")
        with pytest.raises(AssertionError):
            wrong_defaults(page)
