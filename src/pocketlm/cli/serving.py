"""Commands that serve models, and that measure a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pocketlm.cli.arguments import RouterMeasure


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
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of a model; unset: models share the cores.", min=1)
    ] = None,
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
