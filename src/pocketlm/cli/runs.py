"""Commands on recipes and run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pocketlm.cli.arguments import RecipeArgument, ScaleOption, SetOption
from pocketlm.errors import VerificationError


def run(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE when left out.")] = None,
    scale: ScaleOption = None,
    set: SetOption = None,
    only: Annotated[str | None, typer.Option(help="Run just this stage; its inputs must be there.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop after so long with a checkpoint; the same command continues.")
    ] = None,
) -> None:
    """Run a recipe, or continue it: stages whose settings and inputs are unchanged are re-used."""
    from pocketlm.commands import run_recipe

    slice_of_time = [] if max_seconds is None else [f"runtime.max_seconds={max_seconds}"]
    for line in run_recipe(recipe, out, [*(set or []), *slice_of_time], scale, only):
        print(line)


def plan(recipe: RecipeArgument, scale: ScaleOption = None, set: SetOption = None) -> None:
    """Say what a recipe will take (tokens, FLOPs, memory, time, energy, disk), and refuse what cannot fit."""
    from pocketlm.commands import plan_recipe

    for line in plan_recipe(recipe, set or [], scale):
        print(line)


def rehearse(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE-rehearsal when left out.")] = None,
    set: SetOption = None,
) -> None:
    """Run the entire recipe in miniature: a tiny model of the same form, a few steps a stage, little or other text."""
    from pocketlm.commands import rehearse_recipe

    for line in rehearse_recipe(recipe, out, set or []):
        print(line, flush=True)


def why(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    stage: Annotated[str, typer.Argument(metavar="STAGE")],
    set: SetOption = None,
) -> None:
    """Explain why a stage is re-used or would run, naming the setting; and why it last ran."""
    from pocketlm.commands import explain_stage

    explanation = explain_stage(folder, stage, set or [])
    print(f"{stage}: re-used as it is" if explanation.current else f"{stage}: would run, because")
    for reason in explanation.reasons:
        print(f"  {reason}")
    if explanation.last_reasons:
        print("it last ran because")
        for reason in explanation.last_reasons:
            print(f"  {reason}")


def verify(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    seal: Annotated[str | None, typer.Option(help="The seal that the run printed last.", metavar="HASH")] = None,
    sample: Annotated[int | None, typer.Option(help="Do the same work again as that verification.")] = None,
) -> None:
    """Re-hash everything, derive the figures again, re-score a sample. Exit code 1 on any difference."""
    from pocketlm.commands import verify_folder
    from pocketlm.pipeline.coverage import coverage_lines
    from pocketlm.pipeline.verification import fresh_sample

    drawn = fresh_sample() if sample is None else sample
    print(f"sample {drawn} (--sample {drawn} does the same work again)")
    problems, coverages = 0, []
    for check in verify_folder(folder, seal, drawn):
        print(f"{'FAIL' if check.problems else 'ok  '} {check.name} ({check.examined:,})", flush=True)
        for problem in check.problems:
            print(f"     {problem}")
        for note in check.notes:
            print(f"     note: {note}")
        problems += len(check.problems)
        coverages += [check.coverage] if check.coverage is not None else []
    for line in coverage_lines(coverages) if coverages else ():
        print(line)
    if problems:
        raise VerificationError(f"{folder}: {problems} difference{'s' if problems > 1 else ''} found")
    print("verified" if seal else "verified (pass --seal HASH to find a consistent rewrite of everything as well)")


def audit_sample(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    count: Annotated[int, typer.Option(help="How many documents.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Same seed, same documents.", min=0)] = 0,
    json: Annotated[Path | None, typer.Option(help="Write everything there as well.", metavar="FILE")] = None,
) -> None:
    """Show where random trained-on documents came from, every rule they passed, and the steps that read them."""
    from pocketlm.commands import audit_sample as audited

    lines, problems = audited(folder, count, seed, json)
    for line in lines:
        print(line)
    if problems:
        raise VerificationError(f"{folder}: {problems} rule{'s' if problems > 1 else ''} broken, see PROBLEM above")


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run folder, or several to compare.")],
    out: Annotated[Path, typer.Option(help="Where the page goes.", metavar="FILE.html")],
) -> None:
    """Write the report of a run to another place, or one page that lays several runs side by side."""
    from pocketlm.commands import write_report

    write_report(folders, out)
    print(f"written: {out}")


def rejects(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    gate: Annotated[str | None, typer.Option(help="Only documents that this gate rejected.")] = None,
    limit: Annotated[int, typer.Option(help="How many to show.", min=1)] = 20,
) -> None:
    """Browse rejected documents: which gate, which value, against which threshold, and an excerpt."""
    from pocketlm.commands import list_rejects

    for line in list_rejects(folder, gate, limit):
        print(line)


def doctor() -> None:
    """Check device, torch build, disk and offline readiness."""
    from pocketlm.commands import diagnose

    failed = False
    for name, ok, detail in diagnose():
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {detail}")
        failed |= not ok
    if failed:
        raise VerificationError("this machine is not ready; see the lines marked FAIL")


def list_below(root: Annotated[Path, typer.Argument(metavar="FOLDER")] = Path("runs")) -> None:
    """List the runs below a folder."""
    from pocketlm.pipeline.runs import list_runs

    for item in list_runs(root):
        print(
            f"{item.folder}  {item.recipe}  {item.state}  {item.stages} stages  {item.megabytes:.1f} MB  {item.changed}"
        )


def remove_run(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    stage: Annotated[str | None, typer.Option(help="Only this stage's artifact.")] = None,
) -> None:
    """Delete a run, or one stage's artifact in it."""
    from pocketlm.pipeline.runs import remove

    print(f"removed: {remove(folder, stage)}")


def collect_leftovers(folder: Annotated[Path, typer.Argument(metavar="RUN")]) -> None:
    """Remove leftovers: scratch folders, half-written files, artifacts of stages that the recipe no longer has."""
    from pocketlm.pipeline.runs import collect_garbage

    removed = collect_garbage(folder)
    for path in removed:
        print(f"removed: {path}")
    if not removed:
        print("nothing to remove")
