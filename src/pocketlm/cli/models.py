"""Commands on models: score, compare, try, write in another format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pocketlm.cli.arguments import ModelArgument, TopOption


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
