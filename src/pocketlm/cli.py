"""The commands: parsing and printing, no logic. Heavy libraries are imported by the functions that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pocketlm import __version__
from pocketlm.errors import InputError, PocketError, VerificationError
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

RecipeArgument = Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.", metavar="RECIPE")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A run folder (its final model), an artifact folder, or a Hugging Face folder.", metavar="MODEL"
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override one setting, e.g. pretrain.steps=200.", metavar="PATH=VALUE")
]
TopOption = Annotated[
    float, typer.Option("--top-p", help="Draw among the likeliest tokens that hold this probability together.")
]
RouterMeasure = Annotated[
    str, typer.Option(help="Confidence: mean, or window (the least sure 8 tokens in a row).", metavar="MEASURE")
]
ScaleOption = Annotated[str | None, typer.Option(help="A scale of the recipe, e.g. rehearsal (everything, tiny).")]


@app.command()
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


@app.command()
def plan(recipe: RecipeArgument, scale: ScaleOption = None, set: SetOption = None) -> None:
    """Say what a recipe will take (tokens, FLOPs, memory, time, energy, disk), and refuse what cannot fit."""
    from pocketlm.commands import plan_recipe

    for line in plan_recipe(recipe, set or [], scale):
        print(line)


@app.command()
def rehearse(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE-rehearsal when left out.")] = None,
    set: SetOption = None,
) -> None:
    """Run the entire recipe in miniature: a tiny model of the same form, a few steps a stage, little or other text."""
    from pocketlm.commands import rehearse_recipe

    for line in rehearse_recipe(recipe, out, set or []):
        print(line, flush=True)


@app.command()
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


@app.command()
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


@app.command(name="audit-sample")
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


@app.command(name="eval")
def evaluate(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Where the scores go.", metavar="FILE.json")],
    tasks: Annotated[
        str, typer.Option(help="Tasks, separated by commas; six, blimp, behaviour, all name several.", metavar="A,B")
    ],
    data: Annotated[
        str | None, typer.Option(help="Folder with the tasks' files, or `hub`; the model's run when left out.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json of a GGUF file.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N items of each task.", min=1)] = None,
    split: Annotated[str, typer.Option(help="Items of benchmarks by hash: all, selection or report.")] = "all",
    chat: Annotated[bool, typer.Option("--chat", help="Ask benchmarks in the model's chat form.")] = False,
) -> None:
    """Score a model with lm-evaluation-harness on local tasks."""
    from pocketlm.commands import evaluate_model

    for line in evaluate_model(model, tasks, data, tokenizer, limit, split, chat, out):
        print(line)
    print(f"written: {out}")


@app.command()
def compare(
    results: Annotated[
        list[str],
        typer.Argument(
            help="Result files of `eval`, runs (RUN or RUN:MODEL), lm_eval results, published models; NAME=RESULT "
            "gives another name.",
            metavar="A B ...",
        ),
    ],
    tasks: Annotated[
        str, typer.Option(help="Only these, separated by commas; every task when left out.", metavar="A,B")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Where all figures go.", metavar="FILE.json")] = None,
) -> None:
    """Compare results item by item, and with published scores; say which sentences they allow, and why."""
    from pocketlm.commands import compare_results

    for line in compare_results(results, tasks, out):
        print(line)
    if out is not None:
        print(f"written: {out}")


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help="The text to continue.")],
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.", min=0.0)] = 0.8,
    top_p: TopOption = 1.0,
) -> None:
    """Continue a text."""
    from pocketlm.commands import continue_text

    print(continue_text(model, prompt, max_tokens, seed, temperature, top_p))


@app.command()
def chat(
    model: ModelArgument,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.", min=0.0)] = 0.0,
    top_p: TopOption = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed and messages, same answers.")] = 0,
    history: Annotated[
        bool, typer.Option("--history", help="Give the model the whole conversation, not each message alone.")
    ] = False,
) -> None:
    """Talk to a model. An empty line or Ctrl-D ends it."""
    from pocketlm.commands import open_chat

    session = open_chat(model, temperature, top_p, seed)
    if sys.stdin.isatty():
        print("Ask something short, for instance 12+34= (an empty line ends).")
    while True:
        try:
            text = input("you> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            break
        if not text.strip():
            break
        if not history:
            session.forget()  # the quickstart's model is taught single exchanges; a conversation confuses it
        print(session.reply(text.strip()))
        if session.notice:
            print(f"({session.notice})")


@app.command()
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run, artifact or Hugging Face folders, GGUF files; NAME=MODEL gives another name.",
            metavar="MODEL ...",
        ),
    ],
    host: Annotated[str, typer.Option(help="Where to listen; another than this machine needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="Holds the token that clients must send; or the variable POCKETLM_TOKEN.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may call the server.", metavar="ORIGIN")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="Sequences decoded together at most.", min=1)] = None,
    context: Annotated[int | None, typer.Option(help="Longest prompt plus answer; unset: the model's.", min=2)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a model's computations.", min=1)] = None,
    queue: Annotated[int, typer.Option(help="Sequences that may wait; more are refused with 429.", min=0)] = 64,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest answer; what the context leaves if unset.", min=1)
    ] = None,
    request_seconds: Annotated[float, typer.Option(help="For a whole answer; 504 after it.", min=0.001)] = 600.0,
    drain_seconds: Annotated[
        float, typer.Option(help="That running requests get after SIGTERM or Ctrl-C.", min=0.0)
    ] = 30.0,
    router_url: Annotated[
        str | None, typer.Option(help="Address of a larger model's server, for chats that the model is unsure of.")
    ] = None,
    router_model: Annotated[str | None, typer.Option(help="What that server calls it.")] = None,
    router_threshold: Annotated[
        float | None, typer.Option(help="Confidence below which it is asked, in nats per token, e.g. -0.5.")
    ] = None,
    router_token_file: Annotated[Path | None, typer.Option(help="Holds that server's token.")] = None,
    router_measure: RouterMeasure = "mean",
    router_timeout: Annotated[
        float, typer.Option(help="Seconds that it has; then the own answer is given.", min=0.1)
    ] = 60.0,
) -> None:
    """Serve models over HTTP, as OpenAI's API does, with a chat page."""
    from pocketlm.commands import serve_models

    serve_models(
        models,
        host=host,
        port=port,
        token_file=token_file,
        origins=allow_origin or [],
        slots=slots,
        context=context,
        threads=threads,
        queue=queue,
        max_tokens=max_tokens,
        request_seconds=request_seconds,
        drain_seconds=drain_seconds,
        router_url=router_url,
        router_model=router_model,
        router_threshold=router_threshold,
        router_token_file=router_token_file,
        router_measure=router_measure,
        router_timeout=router_timeout,
        announce=lambda line: print(line, flush=True),
    )


@app.command(name="bench-serve")
def bench_serve(
    out: Annotated[Path, typer.Option(help="Where the figures go.", metavar="FILE.json")],
    served: Annotated[
        str | None, typer.Argument(help="A model to serve meanwhile, in this process.", metavar="[MODEL]")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A server that runs, e.g. http://127.0.0.1:8000/v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Which of its models; unset: the only one.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="Holds its token.")] = None,
    streams: Annotated[int, typer.Option(help="Requests at the same time.", min=1, max=1024)] = 8,
    limit: Annotated[int | None, typer.Option(help="Only the first N tasks.", min=1)] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one request.", min=0.1)] = 120.0,
    price_per_hour: Annotated[float | None, typer.Option(help="Of the server's machine.", min=0.0)] = None,
    price_per_kwh: Annotated[float | None, typer.Option(help="Of electricity.", min=0.0)] = None,
    router_curve: Annotated[
        bool, typer.Option("--router-curve", help="Ask a larger model as well; what would a router bring?")
    ] = False,
    router_url: Annotated[str | None, typer.Option(help="The larger model's server.")] = None,
    router_model: Annotated[str | None, typer.Option(help="Which of its models; unset: the only one.")] = None,
    router_token_file: Annotated[Path | None, typer.Option(help="Holds its token.")] = None,
    router_measure: RouterMeasure = "mean",
    most_routed: Annotated[
        float, typer.Option(help="Share of tasks that the chosen threshold may give away.", min=0.0, max=1.0)
    ] = 0.5,
    router_price_prompt: Annotated[
        float | None, typer.Option(help="Of a million prompt tokens of the larger model.", min=0.0)
    ] = None,
    router_price_answer: Annotated[
        float | None, typer.Option(help="Of a million answer tokens of the larger model.", min=0.0)
    ] = None,
) -> None:
    """Measure a server on tasks with known answers, with and without constraints: success, time, energy, cost."""
    from pocketlm.commands import bench_serve as measured

    for line in measured(
        served,
        out,
        url=url,
        name=model,
        token_file=token_file,
        streams=streams,
        limit=limit,
        timeout=timeout,
        price_per_hour=price_per_hour,
        price_per_kwh=price_per_kwh,
        curve=router_curve,
        router_url=router_url,
        router_model=router_model,
        router_token_file=router_token_file,
        router_measure=router_measure,
        most_routed=most_routed,
        router_prices=(router_price_prompt, router_price_answer),
    ):
        print(line)
    print(f"written: {out}")


@app.command()
def export(
    model: ModelArgument,
    to: Annotated[
        str, typer.Option(help="hf: a Hugging Face folder. gguf: a file for llama.cpp, Ollama, LM Studio. peft: LoRA.")
    ],
    target: Annotated[Path, typer.Argument(help="A new folder, or a new file that ends with .gguf.", metavar="TARGET")],
    type: Annotated[
        str | None,
        typer.Option(
            help="Numbers of the weights. hf: f32 (default), bf16, f16. gguf: f16 (default), f32, bf16, q8_0, q6_k, "
            "q5_1, q4_k_m, q4_0."
        ),
    ] = None,
) -> None:
    """Write a model in a format that other tools load."""
    from pocketlm.commands import export_model

    for line in export_model(model, to, target, type):
        print(line)
    print(f"written: {target}")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run folder, or several to compare.")],
    out: Annotated[Path, typer.Option(help="Where the page goes.", metavar="FILE.html")],
) -> None:
    """Write the report of a run to another place, or one page that lays several runs side by side."""
    from pocketlm.commands import write_report

    write_report(folders, out)
    print(f"written: {out}")


@app.command()
def rejects(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    gate: Annotated[str | None, typer.Option(help="Only documents that this gate rejected.")] = None,
    limit: Annotated[int, typer.Option(help="How many to show.", min=1)] = 20,
) -> None:
    """Browse rejected documents: which gate, which value, against which threshold, and an excerpt."""
    from pocketlm.commands import list_rejects

    for line in list_rejects(folder, gate, limit):
        print(line)


@app.command()
def doctor() -> None:
    """Check device, torch build, disk and offline readiness."""
    from pocketlm.commands import diagnose

    failed = False
    for name, ok, detail in diagnose():
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {detail}")
        failed |= not ok
    if failed:
        raise VerificationError("this machine is not ready; see the lines marked FAIL")


@runs_app.command(name="list")
def runs_list(root: Annotated[Path, typer.Argument(metavar="FOLDER")] = Path("runs")) -> None:
    """List the runs below a folder."""
    from pocketlm.pipeline.runs import list_runs

    for item in list_runs(root):
        print(
            f"{item.folder}  {item.recipe}  {item.state}  {item.stages} stages  {item.megabytes:.1f} MB  {item.changed}"
        )


@runs_app.command(name="rm")
def runs_remove(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    stage: Annotated[str | None, typer.Option(help="Only this stage's artifact.")] = None,
) -> None:
    """Delete a run, or one stage's artifact in it."""
    from pocketlm.pipeline.runs import remove

    print(f"removed: {remove(folder, stage)}")


@runs_app.command(name="gc")
def runs_collect(folder: Annotated[Path, typer.Argument(metavar="RUN")]) -> None:
    """Remove leftovers: scratch folders, half-written files, artifacts of stages that the recipe no longer has."""
    from pocketlm.pipeline.runs import collect_garbage

    removed = collect_garbage(folder)
    for path in removed:
        print(f"removed: {path}")
    if not removed:
        print("nothing to remove")


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
