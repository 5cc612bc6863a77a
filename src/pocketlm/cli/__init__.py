"""The commands: parsing and printing, no logic. Heavy libraries are imported by the functions that need them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from pocketlm import __version__
from pocketlm.cli import models, runs, serving
from pocketlm.errors import InputError, PocketError
from pocketlm.pipeline.process import prepare_process

app = typer.Typer(
    name="pocketlm",
    help="Train small language models on one GPU, with every number auditable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
runs_app = typer.Typer(help="Look after run folders.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")

COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("run", runs.run),
    ("plan", runs.plan),
    ("rehearse", runs.rehearse),
    ("why", runs.why),
    ("verify", runs.verify),
    ("audit-sample", runs.audit_sample),
    ("eval", models.evaluate),
    ("compare", models.compare),
    ("generate", models.generate),
    ("chat", models.chat),
    ("serve", serving.serve),
    ("bench-serve", serving.bench_serve),
    ("export", models.export),
    ("report", runs.report),
    ("rejects", runs.rejects),
    ("doctor", runs.doctor),
)
RUNS_COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("list", runs.list_below),
    ("rm", runs.remove_run),
    ("gc", runs.collect_leftovers),
)
for name, command in COMMANDS:
    app.command(name=name)(command)
for name, command in RUNS_COMMANDS:
    runs_app.command(name=name)(command)


def _print_version(value: bool) -> None:
    if value:
        print(f"pocketlm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Entry point: user errors become one line and an exit code, bugs keep their traceback."""
    prepare_process()
    try:
        app(standalone_mode=False)
    except PocketError as error:
        print(f"pocketlm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"pocketlm: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        sys.exit(InputError.exit_code)
    except typer.Abort:
        sys.exit(InputError.exit_code)
    except Exception as error:
        usage_exit_code = getattr(error, "exit_code", None)
        if usage_exit_code is None or not hasattr(error, "show"):
            raise
        error.show()
        sys.exit(usage_exit_code)
    sys.exit(0)
