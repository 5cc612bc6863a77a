"""The documentation names only what exists: links, files, commands, overrides, settings, make targets; and all stages.
It states the default of every setting, and no other.

Nothing that a page quotes is executed: commands are parsed, overrides are validated against the shipped recipes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
import yaml

from pocketlm.cli import app
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.pipeline.recipe import RESERVED, load_recipe, parse_recipe, recipe_folder
from pocketlm.pipeline.settings import Runtime, Settings
from pocketlm.stages import STAGES, registry
from tests.docs_pages import FENCE, INLINE, LINK, PAGES, PLACEHOLDER, ROOT, blocks, name_of, spans

OWN_COMMAND = re.compile(r"(\$ )?(pocketlm|make|python -m) ")
REPOSITORY_PATH = re.compile(r"(?:(?:src/pocketlm|tests|bench|\.ci)/[\w./-]+|docs/[\w./-]+\.md)")
FILE_ENDINGS = ("json", "jsonl", "html", "parquet", "npy", "py", "yaml", "md", "jinja", "txt")
SHIPPED = {file.stem for file in recipe_folder().glob("*.yaml")}


def anchors_of(page: Path) -> set[str]:
    """The ids that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def shell_lines(page: Path) -> Iterator[str]:
    """Commands in blocks, without comments and environment assignments; in blocks of no language our own commands."""
    for language, content in blocks(page):
        for line in content.replace("\\\n", " ").splitlines():
            if language in ("sh", "bash", "console") or (not language and OWN_COMMAND.match(line)):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words = words[1:]
                if words:
                    yield shlex.join(words)


def pocketlm_lines(page: Path) -> Iterator[tuple[str, bool]]:
    """(what follows `pocketlm`, whether it must be complete): commands in blocks must be, inline mentions need not."""
    for line in shell_lines(page):
        words = shlex.split(line)
        if words[0].rpartition("/")[2] == "pocketlm":
            yield shlex.join(words[1:]), True
    for span in spans(page):
        if span.startswith("pocketlm "):
            yield span.removeprefix("pocketlm ").replace("[", "").replace("]", "").replace("...", ""), False


def parse(arguments: str, complete: bool) -> dict[str, Any]:
    """Parse a command line without running it; returns the values of its parameters, UnknownCommand if it is none.

    Written against what click and typer's copy of it have in common.
    """
    # A name in capitals stands for a value; 1 is one for texts and numbers alike.
    words = [re.sub(r"^[A-Z]+$", "1", word) for word in shlex.split(arguments)]
    command: Any = typer.main.get_command(app)
    while words and not words[0].startswith("-") and (commands := getattr(command, "commands", {})):
        choices = words.pop(0).split("|")
        if unknown := [name for name in choices if name not in commands]:
            raise UnknownCommand(f"there is no command {unknown[0]!r}")
        command = commands[choices[0]]
    if not complete:
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        if unknown := [word for word in words if word.startswith("--") and word not in options]:
            raise UnknownCommand(f"there is no option {unknown[0]}")
    try:
        return dict(command.make_context("pocketlm", words, resilient_parsing=not complete).params)
    except Exception as error:
        if hasattr(error, "format_message"):
            raise UnknownCommand(error.format_message()) from None
        if hasattr(error, "exit_code"):  # --help and --version are over when they are parsed
            return {}
        raise


class UnknownCommand(Exception):
    """A quoted command line that the program would refuse."""


def setting_exists(path: str) -> bool:
    """Whether a dotted path names a stage's or the runtime's setting (or a group of settings)."""
    first, _, rest = path.partition(".")
    if first == "runtime":
        return _field_at(Runtime, rest.split("."))
    entries = {name: entry.definition for name, entry in load_recipe("quickstart", registry()).stages.items()}
    definition = entries.get(first) or registry()[first]
    parts = rest.split(".")
    if first == "sources":  # the first part is the name of a source
        return len(parts) == 1 or _field_at(SourceSettings, parts[1:])
    return _field_at(definition.settings, parts)


def _field_at(model: type[Settings], parts: list[str]) -> bool:
    for place, part in enumerate(parts):
        if part not in model.model_fields:
            return False
        annotation = model.model_fields[part].annotation
        options = [item for item in get_args(annotation) if item is not type(None)]
        annotation = getattr(options[0], "__origin__", options[0]) if len(options) == 1 else annotation
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            model = annotation
        elif place < len(parts) - 1:
            return False
    return True


def own_and_inherited(stage: str) -> tuple[set[str], set[str]]:
    """Dotted settings of a stage: those of its own class, and those that it has from a base class."""
    settings = registry()[stage].settings
    bases = {name for base in settings.__mro__[1:] for name in getattr(base, "model_fields", {})}
    paths = set(_paths(settings))
    inherited = {path for path in paths if path.partition(".")[0] in bases}
    return paths - inherited, inherited


def _paths(model: type[Settings]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from (f"{name}.{inner}" for inner in _paths(field.annotation))
        else:
            yield name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors_of(file), f"{target}: there is no such heading; there are {anchors_of(file)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    for path in REPOSITORY_PATH.findall(page.read_text(encoding="utf-8")):
        if PLACEHOLDER not in path:
            assert (ROOT / path).exists(), f"there is no {path}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_named_beside_others_are_beside_them(page: Path) -> None:
    """Under "Code" a bare file name stands for a file in the folder that was named last."""
    folder = ROOT
    for span in INLINE.findall(page.read_text(encoding="utf-8").partition("## Code\n")[2].partition("\n## ")[0]):
        if "/" in span:
            folder = (ROOT / span) if span.endswith("/") else (ROOT / span).parent
        elif span.endswith(".py"):
            assert (folder / span).exists(), f"there is no {span} in {folder.relative_to(ROOT)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipe_fragments_are_valid(page: Path) -> None:
    """A YAML block holds a recipe (with its `name`), entries of one, or settings of `curate`."""
    for fragment in (yaml.safe_load(content) for language, content in blocks(page) if language == "yaml"):
        if "name" in fragment:
            parse_recipe(fragment, registry(), name_of(page))
            continue
        for name, value in fragment.items():
            if name in registry()["curate"].settings.model_fields:
                registry()["curate"].settings.model_validate({name: value})
            else:
                settings = {key: item for key, item in value.items() if key not in ("stage", "inputs", "seeded")}
                registry()[value.get("stage", name)].settings.model_validate(settings)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    for arguments, complete in pocketlm_lines(page):
        try:
            parse(arguments, complete)
        except UnknownCommand as error:
            pytest.fail(f"pocketlm {arguments}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_overrides_and_scales_are_valid(page: Path) -> None:
    """Those of a command are read with the shipped recipe that it names; all others with the quickstart."""
    for line, _ in pocketlm_lines(page):
        values = parse(line, False)
        named = values.get("recipe")
        scale = values.get("scale")
        overrides = [override for override in values.get("set") or () if "PATH=VALUE" not in override]
        recipe = named if named in SHIPPED else "quickstart"
        load_recipe(recipe, registry(), overrides, scale=None if scale == "1" else scale)
    for span in spans(page):
        if span.startswith("--set ") and "PATH=VALUE" not in span:
            load_recipe("quickstart", registry(), [span.removeprefix("--set ")])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_exist(page: Path) -> None:
    names = {*load_recipe("quickstart", registry()).stages, *registry(), "runtime"}
    for span in spans(page):
        first, dot, rest = span.partition(".")
        if dot and first in names and rest not in FILE_ENDINGS and re.fullmatch(r"[a-z_.]+", rest):
            assert setting_exists(span), f"there is no setting {span}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = [*shell_lines(page), *(span for span in spans(page) if span.startswith("make "))]
    for line in lines:
        words = shlex.split(line)
        if words[0] == "make":
            named = {word for word in words[1:] if "=" not in word}
            assert named <= targets, f"{line}: the Makefile has {sorted(targets)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_quoted_python_commands_find_something(page: Path) -> None:
    """`python -m bench.NAME` names a script; `python -m pytest PATHS -k WORDS` finds a test for each of its words."""
    for line in [*shell_lines(page), *(span for span in spans(page) if span.startswith("python -m "))]:
        words = shlex.split(line)
        if words[:2] != ["python", "-m"]:
            continue
        if words[2] != "pytest":
            assert (ROOT / f"{words[2].replace('.', '/')}.py").exists(), line
            continue
        paths = [ROOT / word for word in words[3:] if word.startswith("tests/")]
        files = [file for path in paths for file in ([path] if path.suffix else sorted(path.glob("test_*.py")))]
        found = [f"{file.name}::{name}" for file in files for name in re.findall(r"def (test_\w+)", file.read_text())]
        assert found, line
        for word in words[words.index("-k") + 1].split(" or ") if "-k" in words else []:
            assert any(word in name for name in found), f"{line}: no test has {word!r} in its name"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_page_that_names_its_settings(stage: str) -> None:
    """Settings that a stage shares with others may stand on a page that its own page links to."""
    page = ROOT / "docs" / "stages" / f"{stage}.md"
    text = page.read_text(encoding="utf-8")
    own, inherited = own_and_inherited(stage)
    linked = [(page.parent / target).resolve() for target in LINK.findall(text) if target.endswith(".md")]
    shared = {span for other in linked for span in spans(other)}
    here = set(spans(page))
    for path in sorted(own | inherited):
        name = f"{stage}.{path}"
        named = any(span == name or span.startswith(f"{name}.") for span in here | shared)
        named = named or (path in inherited and path in shared)
        # A group that has a page of its own, or that another stage has too, is named as a whole and explained there.
        group, _, last = path.rpartition(".")
        explained = f"{stage}.{group}" in here and any(span == last or span.endswith(f".{path}") for span in shared)
        assert named or explained, f"{name_of(page)} does not name {stage}.{path}"


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(index.read_text())}
    decisions = ROOT / "docs" / "decisions" / "README.md"
    linked |= {(decisions.parent / target).resolve() for target in LINK.findall(decisions.read_text())}
    missing = [name_of(page) for page in sorted(ROOT.glob("docs/**/*.md")) if page not in linked | {index}]
    assert not missing


def test_the_recipe_keys_of_the_concepts_page_are_the_reserved_ones() -> None:
    here = set(spans(ROOT / "docs" / "concepts.md"))
    assert set(RESERVED) <= here


def test_a_wrong_command_option_or_setting_is_found() -> None:
    for wrong in ("runn quickstart", "run quickstart --ste a.b=1", "eval runs/quickstart --out x.json", "runs lst"):
        with pytest.raises(UnknownCommand):
            parse(wrong, True)
    assert setting_exists("curate.gates.minimum_words")
    assert not setting_exists("curate.gates.minimum_wordz")
