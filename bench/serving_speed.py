"""Our server against transformers' own at 16 streams, and one stream against llama.cpp.

    python -m bench.serving_speed --gguf MODEL.gguf --llama-python PYTHON [--threads 2] [--rounds 3]

The model is exported to a Hugging Face folder and to GGUF files first; every program reads the same weights. All
servers stay up, one works at a time, in turns.

- streams: 16 chats at once, greedy, up to 96 new tokens each, float32, over HTTP from one client. Against
  `transformers serve` as it runs by default and with its continuous batching. Total new tokens a second, of the tokens
  in the answers' texts (transformers' server counts differently), ratio by round.
- stream: one completion of 128 new tokens after a prompt of 32, from the first token to the last. Ours over HTTP, and
  our engine in a process without HTTP; llama.cpp (llama-cpp-python, in a process of its own, without HTTP) with the F32
  file, which is the same precision; beside it F16 and Q8_0, which read fewer bytes.
- floor: how fast memory alone would let one stream be: the weights' bytes by the bandwidth of reading them, measured
  in the same round with as many threads.

Prints a table and writes bench/results/serving_speed.json; a part that is not measured stays there as it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx2 as httpx
import torch

from bench.common import RESULTS, paired_ratio, write_result
from bench.serving_process import served
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.evaluation.models.loading import load

QUESTIONS = (
    "Tell me about the sea.", "What is a good breakfast?", "Explain what a computer is.",
    "Describe a forest in autumn.",
    "How do plants grow?", "Write about a day in a city.", "What is music?", "Tell me a story about a dog.",
    "Why do we sleep?", "Describe the job of a teacher.", "How is bread made?", "What is a river?",
    "Tell me about the moon.", "What makes a good friend?", "Describe a winter morning.", "How does a bicycle work?",
)  # fmt: skip
STREAM_TEXT = (
    "The following is a long and detailed description of the history of a small town by the sea, its people, its "
    "harbour, its churches and its schools, written for visitors."
)
CONTEXT = 512
NEW_TOKENS = 96
STREAM_TOKENS = 128
STREAM_PROMPT = 32
TIMEOUT = httpx.Timeout(1800.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--llama-python", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=("streams", "stream"), default=["streams", "stream"])
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    torch.set_num_threads(given.threads)
    before = RESULTS / "serving_speed.json"
    kept = json.loads(before.read_bytes()) if before.exists() else {}
    payload: dict[str, Any] = {part: kept[part] for part in ("streams", "stream") if part in kept}
    payload |= {"threads": given.threads, "precision": "float32"}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch) / "model"
        subprocess.run([sys.executable, "-m", "pocketlm", "export", str(given.gguf), "--to", "hf", folder], check=True)
        _, tokenizer = load(folder)
        ours = stack.enter_context(
            served([f"model={folder}", "--threads", str(given.threads), "--context", str(CONTEXT), "--slots", "16"])
        )
        if "streams" in given.parts:
            theirs = {
                "transformers serve": stack.enter_context(_transformers(folder)),
                "transformers serve, continuous batching": stack.enter_context(
                    _transformers(folder, "--continuous-batching", "--cb-max-memory-percent", "0.2")
                ),
            }
            urls = {"ours": (ours.url, "model")} | {name: (url, str(folder)) for name, url in theirs.items()}
            payload["streams"] = measure_streams(urls, tokenizer, given.rounds)
        if "stream" in given.parts:
            if given.llama_python is None:
                raise SystemExit("--llama-python is needed for the part `stream`")
            engine = [sys.executable, "-m", "bench.engine_stream", folder]
            commands = {"engine": engine} | {
                kind: [
                    given.llama_python,
                    Path(__file__).with_name("llama_cpp_stream.py"),
                    _gguf(folder, scratch, kind),
                ]
                for kind in ("f32", "f16", "q8_0")
            }
            children = {
                name: stack.enter_context(_child([*command, given.threads, CONTEXT]))
                for name, command in commands.items()
            }
            payload["stream"] = measure_stream(ours.url, children, tokenizer, folder, given.rounds)
    print(json.dumps(payload, indent=2))
    write_result("serving_speed", payload, ("transformers", "fastapi", "uvicorn"))


def measure_streams(urls: dict[str, tuple[str, str]], tokenizer: Tokenizer, rounds: int) -> dict[str, Any]:
    """Total new tokens a second of every server with 16 chats at once, in turns."""
    rates: dict[str, list[float]] = {name: [] for name in urls}
    texts: dict[str, list[str]] = {}
    for round_number in range(rounds + 1):  # the first one warms up
        for name, (url, model) in urls.items():
            begun = time.perf_counter()
            answers = asyncio.run(_chats(url, model))
            seconds = time.perf_counter() - begun
            texts[name] = answers
            if round_number:
                rates[name].append(sum(len(tokenizer.encode(text)) for text in answers) / seconds)
    ours = rates["ours"]
    return {
        "rounds": rounds,
        "streams": len(QUESTIONS),
        "new_tokens_at_most": NEW_TOKENS,
        "tokens_per_second": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "ratio": {name: round(paired_ratio(ours, values), 2) for name, values in rates.items() if name != "ours"},
        "texts_equal_to_ours": {
            name: sum(one.strip() == other.strip() for one, other in zip(texts["ours"], own, strict=True))
            for name, own in texts.items()
            if name != "ours"
        },
    }


async def _chats(url: str, model: str) -> list[str]:
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
        return list(await asyncio.gather(*(_chat(client, model, question) for question in QUESTIONS)))


async def _chat(client: httpx.AsyncClient, model: str, question: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0.0,
        "max_tokens": NEW_TOKENS,
        "stream": True,
    }
    text = ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{client.base_url}: {answer.status_code} {(await answer.aread())[:500]!r}")
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    text += choice["delta"].get("content") or ""
    return text


def measure_stream(
    url: str, children: dict[str, subprocess.Popen[str]], tokenizer: Tokenizer, folder: Path, rounds: int
) -> dict[str, Any]:
    """Tokens a second of one stream: ours, over HTTP and without, and llama.cpp's, and what memory would allow.

    Args:
        children: `engine`, ours without HTTP, and llama.cpp's by their files' types.
    """
    tokens = tokenizer.encode(STREAM_TEXT)[:STREAM_PROMPT]
    rates: dict[str, list[float]] = {"ours": [], **{kind: [] for kind in children}}
    floor: list[float] = []
    texts: dict[str, str] = {}
    weight_bytes = (folder / "model.safetensors").stat().st_size
    for round_number in range(rounds + 1):
        seconds, texts["ours"] = _our_stream(url, tokens)
        found = {"ours": seconds}
        for kind, child in children.items():
            found[kind], drawn = _stream_of(child, tokens)
            texts[kind] = tokenizer.decode(drawn)
        if round_number:
            for name, took in found.items():
                rates[name].append((STREAM_TOKENS - 1) / took)
            floor.append(_bandwidth() / weight_bytes)
    ours, engine = rates.pop("ours"), rates.pop("engine")
    return {
        "rounds": rounds,
        "new_tokens": STREAM_TOKENS,
        "ours_tokens_per_second": [round(rate, 1) for rate in ours],
        "engine_tokens_per_second": [round(rate, 1) for rate in engine],
        "llama_cpp_tokens_per_second": {kind: [round(rate, 1) for rate in values] for kind, values in rates.items()},
        "ours_as_share_of": {kind: round(paired_ratio(ours, values), 2) for kind, values in rates.items()},
        "engine_as_share_of": {kind: round(paired_ratio(engine, values), 2) for kind, values in rates.items()},
        "memory_would_allow": [round(rate, 1) for rate in floor],
        "ours_as_share_of_memory": round(median(one / most for one, most in zip(ours, floor, strict=True)), 2),
        "characters_equal_to_f32": [_common(texts["ours"], texts["f32"]), len(texts["f32"])],
    }


def _our_stream(url: str, tokens: Sequence[int]) -> tuple[float, str]:
    body = {
        "model": "model",
        "prompt": list(tokens),
        "temperature": 0.0,
        "max_tokens": STREAM_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    times: list[float] = []
    usage: dict[str, int] = {}
    text = ""
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=TIMEOUT) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    if choice["text"]:
                        times.append(time.perf_counter())
                        text += choice["text"]
    if usage.get("completion_tokens") != STREAM_TOKENS:
        raise SystemExit(f"the answer ended early ({usage}); take another text")
    return times[-1] - times[0], text


def _stream_of(child: subprocess.Popen[str], tokens: Sequence[int]) -> tuple[float, list[int]]:
    if child.stdin is None or child.stdout is None:
        raise SystemExit("the process has no pipes")
    print(json.dumps({"tokens": list(tokens), "count": STREAM_TOKENS}), file=child.stdin, flush=True)
    answer = json.loads(child.stdout.readline())
    if len(answer["drawn"]) != STREAM_TOKENS:
        raise SystemExit("the answer ended early; take another text")
    return answer["seconds"], answer["drawn"]


def _common(one: str, other: str) -> int:
    """Characters that both begin with."""
    return next((place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), len(one))


def _bandwidth(size: int = 1 << 28) -> float:
    """Bytes a second that all threads together read."""
    memory = torch.ones(size // 4)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        memory.sum()
        best = min(best, time.perf_counter() - begun)
    return size / best


@contextmanager
def _transformers(folder: Path, *options: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", str(folder), "--device", "cpu", "--dtype", "float32", "--port", str(port), *options]
    process = subprocess.Popen(list(map(str, command)), env={**os.environ, "HF_HUB_OFFLINE": "1"})
    url = f"http://localhost:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _gguf(folder: Path, scratch: str, kind: str) -> Path:
    """The model as a GGUF file of a type."""
    file = Path(scratch) / f"{kind}.gguf"
    command = [sys.executable, "-m", "pocketlm", "export", str(folder), "--to", "gguf", "--type", kind, str(file)]
    subprocess.run(command, check=True)
    return file


@contextmanager
def _child(command: Sequence[object]) -> Iterator[subprocess.Popen[str]]:
    """A process that answers lines of JSON."""
    child = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main()
