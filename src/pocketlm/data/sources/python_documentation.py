"""Documentation of the installed Python as text: real prose that every machine has, read without a network.

Three parts, each a source of its own:

    reference   the language reference that `help()` shows (`pydoc_data.topics`)
    docstrings  docstrings of the standard library and of a fixed list of distributions: one document a module, its
                docstring first, then every class and function with its signature as a heading
    packages    descriptions of the same distributions from their metadata

Sources are parsed by `ast`; nothing is imported or executed. Files are read in a fixed order up to a budget of source
bytes. Not covered: docstrings attached at run time, extension modules, other languages' documentation.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from pocketlm.data.sources.licences import STANDARD_LIBRARY, licence_of
from pocketlm.errors import InputError

PARTS = ("reference", "docstrings", "packages")
STANDARD_NAME = "standard library"

EVERYTHING = ("",)
NOTHING: tuple[str, ...] = ()

DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "jinja2": EVERYTHING,
    "click": EVERYTHING,
    "typer": EVERYTHING,
    "rich": EVERYTHING,
    "pydantic": EVERYTHING,
    "pyarrow": EVERYTHING,
    "numpy": EVERYTHING,
    "networkx": EVERYTHING,
    "torch": ("torch/nn", "torch/optim", "torch/distributions", "torch/functional.py", "torch/utils/data"),
    "scipy": EVERYTHING,
    "scikit-learn": EVERYTHING,
    "altair": NOTHING,
    "datasets": NOTHING,
    "filelock": NOTHING,
    "fsspec": NOTHING,
    "huggingface_hub": NOTHING,
    "joblib": NOTHING,
    "jsonschema": NOTHING,
    "lm_eval": NOTHING,
    "mpmath": NOTHING,
    "narwhals": NOTHING,
    "numba": NOTHING,
    "packaging": NOTHING,
    "pandas": NOTHING,
    "pyyaml": NOTHING,
    "requests": NOTHING,
    "sacrebleu": NOTHING,
    "safetensors": NOTHING,
    "sympy": NOTHING,
    "threadpoolctl": NOTHING,
    "tokenizers": NOTHING,
    "tqdm": NOTHING,
    "transformers": NOTHING,
    "vl-convert-python": NOTHING,
    "xxhash": NOTHING,
    "zstandard": NOTHING,
}  # fmt: skip
"""Distributions that pocketlm depends on, directly or through others, in reading order, and the folders or files of
each whose docstrings are read. Those that are not installed are skipped and said so."""

SKIPPED_FOLDERS = frozenset(
    [
        "test",
        "tests",
        "testing",
        "_testing",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "site-packages",
        "_bundled",
        "pydoc_data",
        "__pycache__",
    ]
)
"""Tests, bundled wheels, and the parts of the standard library that hold no documentation."""

DOCUMENTED_SHARE = 0.1
"""A file is parsed only if so much of it stands between triple quotes: cheap to know, and most text lives there."""

TRIPLE_QUOTED = re.compile(rb'"""(.*?)"""', re.DOTALL)
CONTAINERS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class SourceFile:
    """A file to read docstrings from: the distribution it belongs to and its name from the import root."""

    origin: str
    licence: str
    name: PurePosixPath
    path: Path

    @property
    def module(self) -> str:
        """Dotted module name."""
        parts = self.name.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class Package:
    """A distribution of the list as it is installed here."""

    name: str
    version: str
    licence: str
    metadata: Distribution


def installed_packages() -> tuple[list[Package], list[str]]:
    """The distributions of the list that are installed, in its order, and the names of those that are not."""
    found, missing = [], []
    for name in DISTRIBUTIONS:
        try:
            metadata = distribution(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        found.append(Package(name, metadata.version, licence_of(metadata), metadata))
    return found, missing


def source_files(packages: Sequence[Package]) -> Iterator[SourceFile]:
    """Candidate files in reading order: the standard library by name, then each distribution by name."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = PurePosixPath(path.relative_to(root).as_posix())
        if _read(name):
            yield SourceFile(STANDARD_NAME, STANDARD_LIBRARY, name, path)
    for package in packages:
        wanted = DISTRIBUTIONS[package.name]
        for file in sorted(package.metadata.files or [], key=str) if wanted else ():
            if file.suffix == ".py" and _read(file) and any(_below(str(file), folder) for folder in wanted):
                path = Path(str(package.metadata.locate_file(file)))
                if path.is_file():
                    yield SourceFile(package.name, package.licence, PurePosixPath(file.as_posix()), path)


def documented_files(files: Iterable[SourceFile], budget: int) -> Iterator[tuple[int, SourceFile, bytes]]:
    """(position, file, bytes) of the files with enough documentation, until `budget` bytes were handed out."""
    for position, file in enumerate(files):
        content = file.path.read_bytes()
        quoted = sum(len(match) for match in TRIPLE_QUOTED.findall(content))
        if quoted <= DOCUMENTED_SHARE * len(content):
            continue
        if len(content) > budget:
            return
        budget -= len(content)
        yield position, file, content


def topics() -> dict[str, str]:
    """The language reference by topic; InputError when this Python has none."""
    path = topics_path()
    if not path.is_file():
        raise InputError(f"{path}: this Python has no pydoc_data. Give your own text: --set sources.docs.path=FOLDER")
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return dict(sorted(ast.literal_eval(node.value).items()))
    raise InputError(f"{path}: holds no table of topics. Give your own text: --set sources.docs.path=FOLDER")


def topics_path() -> Path:
    """Where the language reference stands."""
    return Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py"


def module_document(content: bytes, module: str) -> str:
    """The docstrings of a module as one text; "" when it has none or does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError, RecursionError):
            return ""
    sections = [f"# {module}", _docstring(tree)] if ast.get_docstring(tree, clean=False) else [f"# {module}"]
    sections.extend(_sections(tree, "", 2))
    return "\n\n".join(sections) + "\n" if len(sections) > 1 else ""


def description(package: Package) -> str:
    """Summary and long description of a distribution."""
    metadata = package.metadata.metadata
    fields = metadata.json  # the body of the file counts as Description there
    parts = [f"# {fields['name']}", *(str(fields.get(key, "")) for key in ("summary", "description"))]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def python_version() -> str:
    """Version of the interpreter whose standard library is read."""
    return ".".join(map(str, sys.version_info[:3]))


def _sections(node: ast.AST, prefix: str, level: int) -> Iterator[str]:
    for child in getattr(node, "body", []):
        if isinstance(child, CONTAINERS):
            name = f"{prefix}{child.name}"
            if ast.get_docstring(child, clean=False):
                yield f"{'#' * min(level, 4)} {name}{_signature(child)}"
                yield _docstring(child)
            if isinstance(child, ast.ClassDef):
                yield from _sections(child, f"{name}.", level + 1)
        elif isinstance(child, (ast.If, ast.Try)):
            yield from _sections(child, prefix, level)


def _signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"({bases})" if bases else ""
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None  # annotations are code, and some hold whole documents
    return f"({ast.unparse(node.args)})"


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = ast.get_docstring(node, clean=False) or ""
    return inspect.cleandoc(text.encode("utf-8", "replace").decode())


def _read(name: PurePosixPath) -> bool:
    return not SKIPPED_FOLDERS.intersection(name.parts) and ".." not in name.parts


def _below(name: str, folder: str) -> bool:
    return folder == "" or name == folder or name.startswith(folder + "/")
