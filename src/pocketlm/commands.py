"""What the commands do, as functions: they join the registry, the engine and the rooms. `cli` parses and prints."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from pocketlm.errors import InputError
from pocketlm.pipeline.process import allow_hub
from pocketlm.pipeline.recipe import Recipe, load_recipe, parse_recipe
from pocketlm.pipeline.runner import RECIPE, Runner
from pocketlm.pipeline.runs import Explanation, explain
from pocketlm.pipeline.storage import json_bytes, write_bytes_atomic
from pocketlm.pipeline.validation import suggest
from pocketlm.pipeline.verification import Check, checks_of_run
from pocketlm.stages import registry
from pocketlm.training.ranks import on_rank_0

if TYPE_CHECKING:
    from pocketlm.generation.text import ChatSession

NAME = "pocketlm"
Choice = TypeVar("Choice", bound=str)


@on_rank_0
def run_recipe(
    source: str, out: Path | None, overrides: Sequence[str], scale: str | None, only: str | None
) -> list[str]:
    """Run a recipe; returns what to print: what was done, and where to go from there."""
    recipe = load_recipe(source, registry(), overrides, scale)
    if "hf://" in recipe.to_yaml():
        allow_hub()
    return _run(recipe, out if out is not None else Path("runs") / recipe.name, only)


def _run(recipe: Recipe, folder: Path, only: str | None = None) -> list[str]:
    from pocketlm.planning.plan import preflight

    rows = preflight(recipe, folder, only)
    recipe = replace(recipe, runtime=recipe.runtime.model_copy(update={"micro_batch": rows}))
    began = time.monotonic()
    result = Runner(recipe, folder, publish_report).run(only)
    lines = [f"{len(result.executed)} stages ran, {len(result.cached)} re-used, {time.monotonic() - began:.1f} s"]
    if result.seal is not None:
        run = shlex.quote(str(folder))
        lines += [f"report: {(folder / 'report.html').resolve()}", f"seal:   {result.seal}"]
        lines += [f"verify: {own_command()} verify {run} --seal {result.seal}"]
        if recipe.model is not None:
            lines += [f"chat:   {own_command()} chat {run}"]
    return lines


def own_command() -> str:
    """What to type for this program: its name where the shell finds it under that, else the path of what runs."""
    program = Path(sys.argv[0]).absolute()
    if program.name != NAME:  # python -m pocketlm
        program = Path(sys.executable).with_name(NAME)
    if not program.exists():
        return f"{_typed(Path(sys.executable))} -m {NAME}"
    found = shutil.which(NAME)
    return NAME if found is not None and program.samefile(found) else _typed(program)


def _typed(program: Path) -> str:
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if here in program.parents[1:] else program))


def derive_report(folder: Path, seal: str) -> Mapping[str, bytes]:
    """The files that are derived from sealed artifacts and the ledger: the report, its figures, the lineage."""
    from pocketlm.reporting.figures import report_json
    from pocketlm.reporting.html import render
    from pocketlm.reporting.provenance import prov_json
    from pocketlm.reporting.reading import read_run

    run = read_run(folder)
    return {
        "report.html": render(run, seal).encode(),
        "report.json": json_bytes(report_json(run, seal)),
        "lineage.prov.json": json_bytes(prov_json(run, seal)),
    }


def publish_report(folder: Path, seal: str) -> None:
    """Write the derived files of a sealed run."""
    for name, content in derive_report(folder, seal).items():
        write_bytes_atomic(folder / name, content)


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Write the report of one run to `out`, or that of several side by side.

    Raises:
        InputError: `out` is a folder, or lies in one of the run folders, where nothing would account for it.
    """
    import os

    from pocketlm.evaluation.comparison.command import run_blocks
    from pocketlm.reporting.comparison import compared_runs, render_comparison
    from pocketlm.reporting.html import render
    from pocketlm.reporting.reading import read_run

    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file, such as {out / 'report.html'}")
    for folder in folders:
        if folder.resolve() in out.resolve().parents:
            raise InputError(f"--out {out} lies in the run folder {folder}, which holds only what the run made")
    if len(folders) == 1:
        place = Path(os.path.relpath(folders[0], out.resolve().parent)).as_posix()
        run = read_run(folders[0])
        page = render(run, run.seal, f"{quote(place)}/")
    else:
        runs = compared_runs(folders)
        page = render_comparison(runs, run_blocks({one.name: one.run.folder for one in runs}))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(out, page.encode())


def plan_recipe(source: str, overrides: Sequence[str], scale: str | None) -> list[str]:
    """The lines of `pocketlm plan`."""
    from pocketlm.planning.plan import plan

    recipe = load_recipe(source, registry(), overrides, scale)
    return list(plan(recipe, Path("runs") / recipe.name))


@on_rank_0
def rehearse_recipe(source: str, out: Path | None, overrides: Sequence[str]) -> Iterator[str]:
    """Run a recipe in miniature; yields what to print: what was substituted (before and after), what a run prints."""
    from pocketlm.planning.rehearsal import miniature

    recipe = load_recipe(source, registry(), overrides)
    folder = out if out is not None else Path("runs") / f"{recipe.name}-rehearsal"
    small = miniature(recipe, folder)
    rehearsed = parse_recipe(small.document, registry(), f"{recipe.name} in miniature")
    notes = [f"rehearsal: {note}" for note in small.notes]
    yield from notes
    lines = _run(rehearsed, folder)
    yield from (*notes, *lines)


def explain_stage(folder: Path, stage: str, overrides: Sequence[str]) -> Explanation:
    """Why a stage of a run would run again under its recipe (with overrides), or not."""
    path = folder / RECIPE
    if not path.exists():
        raise InputError(f"{folder} is not a run folder: it has no {RECIPE}")
    return explain(load_recipe(path, registry(), overrides), folder, stage)


def verify_folder(folder: Path, seal: str | None, sample: int | None = None) -> Iterator[Check]:
    """The checks of `pocketlm verify`, each as soon as it is done."""
    return checks_of_run(folder, registry(), derive_report, seal, sample)


def audit_sample(folder: Path, count: int, seed: int, out: Path | None) -> tuple[list[str], int]:
    """The lines of `pocketlm audit-sample`, and how many rules are broken; writes them as JSON to `out` too."""
    from pocketlm.evaluation.audits.audit import audit
    from pocketlm.evaluation.audits.text import audit_json, audit_lines
    from pocketlm.pipeline.runner import ARTIFACTS

    path = folder / RECIPE
    if not path.exists():
        raise InputError(f"{folder} is not a run folder: it has no {RECIPE}")
    found = audit(load_recipe(path, registry()), folder / ARTIFACTS, count, seed)
    if out is not None:
        write_bytes_atomic(out, json_bytes(audit_json(found, seed)))
    return list(audit_lines(found)), sum(len(document.problems) for document in found)


def evaluate_model(
    model: str,
    tasks: str,
    data: str | None,
    tokenizer: Path | None,
    limit: int | None,
    split: str,
    chat: bool,
    out: Path,
) -> list[str]:
    """Score a model and write the scores to `out`; returns printable lines."""
    if data == "hub":
        allow_hub()
    from pocketlm.evaluation.asking import SPLITS
    from pocketlm.evaluation.command import Order, evaluate

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    return evaluate(Order(Path(model), names, data, tokenizer, limit, _one_of("--split", split, SPLITS), chat), out)


def compare_results(results: Sequence[str], tasks: str, out: Path | None) -> list[str]:
    """Compare scored models and published baselines; returns printable lines."""
    from pocketlm.evaluation.comparison.command import compare

    return compare(results, [name.strip() for name in tasks.split(",") if name.strip()], out)


def continue_text(model: str, prompt: str, max_tokens: int, seed: int, temperature: float, top_p: float) -> str:
    """Prompt and continuation."""
    from pocketlm.evaluation.models.loading import load
    from pocketlm.generation.text import generate_text

    transformer, tokenizer = load(Path(model))
    return generate_text(transformer, tokenizer, prompt, max_tokens, seed, temperature, top_p)


def open_chat(model: str, temperature: float, top_p: float, seed: int) -> ChatSession:
    """A chat with a model."""
    from pocketlm.evaluation.models.loading import load
    from pocketlm.generation.text import ChatSession

    transformer, tokenizer = load(Path(model))
    return ChatSession(transformer, tokenizer, temperature=temperature, seed=seed, top_p=top_p)


def serve_models(
    models: Sequence[str],
    *,
    host: str,
    port: int,
    token_file: Path | None,
    origins: Sequence[str],
    slots: int | None,
    context: int | None,
    threads: int | None,
    queue: int,
    max_tokens: int | None,
    request_seconds: float,
    drain_seconds: float,
    router_url: str | None,
    router_model: str | None,
    router_threshold: float | None,
    router_token_file: Path | None,
    router_measure: str,
    router_timeout: float,
    announce: Callable[[str], None],
) -> None:
    """Serve models until a signal ends it; `announce` is given the lines to print."""
    from pocketlm.serving.confidence import MEASURES
    from pocketlm.serving.limits import Limits
    from pocketlm.serving.router import read_router
    from pocketlm.serving.serve_settings import ServeSettings, checked_token, named_models

    measure = _one_of("--router-measure", router_measure, MEASURES)
    router = read_router(router_url, router_model, router_threshold, router_token_file, measure, router_timeout)
    limits = Limits(queue=queue, max_tokens=max_tokens, request_seconds=request_seconds, drain_seconds=drain_seconds)
    settings = ServeSettings(host, port, token_file, origins, slots, context, threads, limits, router)
    token, places = checked_token(settings), named_models(models)
    from pocketlm.serving.server import serve  # takes seconds, after what may be refused at once

    serve(places, settings, token, announce)


def bench_serve(
    model: str | None,
    out: Path,
    *,
    url: str | None,
    name: str | None,
    token_file: Path | None,
    streams: int,
    limit: int | None,
    timeout: float,
    price_per_hour: float | None,
    price_per_kwh: float | None,
    curve: bool,
    router_url: str | None,
    router_model: str | None,
    router_token_file: Path | None,
    router_measure: str,
    most_routed: float,
    router_prices: tuple[float | None, float | None],
) -> list[str]:
    """Measure a server on the built-in tasks and write the result to `out`; returns printable lines.

    Args:
        curve: ask a larger model as well and draw the trade-off curve of a router.
        router_prices: of the larger model, for a million tokens of prompts and of answers.
    """
    from pocketlm.serving.benchmark.command import bench_serve as measured
    from pocketlm.serving.benchmark.cost import Prices
    from pocketlm.serving.benchmark.orders import BenchmarkOrder, CurveOrder, Side, TokenPrices
    from pocketlm.serving.confidence import MEASURES

    if curve != (router_url is not None):
        raise InputError("--router-curve and --router-url ADDRESS go together: the curve is of two models")
    order = BenchmarkOrder(
        None if url is None else Side(url, name, token_file),
        None if model is None else Path(model),
        streams,
        limit,
        timeout,
        Prices(price_per_hour, price_per_kwh),
    )
    if router_url is not None:
        side = Side(router_url, router_model, router_token_file, "--router-")
        measure = _one_of("--router-measure", router_measure, MEASURES)
        order = replace(order, curve=CurveOrder(side, measure, most_routed, TokenPrices(*router_prices)))
    return measured(order, out)


def export_model(model: str, to: str, target: Path, number_type: str | None) -> list[str]:
    """Write a model in another format; returns printable lines."""
    from pocketlm.evaluation.models.adapter_export import export_adapter
    from pocketlm.evaluation.models.exports import NUMBER_TYPES, export_gguf, export_hugging_face
    from pocketlm.evaluation.models.loading import locate
    from pocketlm.model.formats.gguf_types import FILE_TYPES
    from pocketlm.reporting.cost import execution_of

    form = _one_of("--to", to, ("hf", "gguf", "peft"))
    default, known = {"hf": ("f32", NUMBER_TYPES), "gguf": ("f16", FILE_TYPES), "peft": ("f32", ["f32"])}[form]
    numbers = _one_of("--type", number_type or default, tuple(known))
    location = locate(Path(model))
    if form == "peft":
        return export_adapter(location, target)
    execution = execution_of(location.run) if location.run else {}
    write = export_gguf if form == "gguf" else export_hugging_face
    return write(location, target, numbers, execution)


def _one_of(option: str, value: str, known: Sequence[Choice]) -> Choice:
    """The value, if it is a known one; InputError with the nearest."""
    for choice in known:
        if choice == value:
            return choice
    raise InputError(f"{option} {value}: there is no such choice{suggest(value, known)}; there are {', '.join(known)}")


def list_rejects(folder: Path, gate: str | None, limit: int) -> list[str]:
    """Printable rejected documents of a run."""
    from pocketlm.reporting.rejects import rejected_documents

    return rejected_documents(folder, gate, limit)


def diagnose() -> Iterator[tuple[str, bool, str]]:
    """(what, fine?, detail) for each thing that a run needs."""
    import importlib.metadata
    import os

    yield "python", sys.version_info >= (3, 11), sys.version.split()[0]
    try:
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"
        yield "torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads"
        yield "device", True, device
    except Exception as error:  # any failure to import is what the user wants to read here
        yield "torch", False, f"cannot be imported: {error}"
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    yield "C++ compiler", True, compiler or "none: torch.compile is not used on CPU"
    for name in ("numba", "pyarrow", "tokenizers", "transformers", "lm_eval", "altair", "vl-convert-python"):
        try:
            yield name, True, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, False, "not installed; install pocketlm again"
    free = shutil.disk_usage(".").free
    yield "disk", free > 10**9, f"{free / 1e9:.1f} GB free here"
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    yield "offline", True, "hub access is off unless a source is remote" if offline else "hub access was switched on"
