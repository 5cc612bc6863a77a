"""JSON under a schema from a small model: what share is valid, and what the constraint costs.

    python -m bench.constrained_decoding --model MODEL.gguf [--generations 1000] [--rounds 5] [--slots 16] [--threads N]

Validity: `--generations` answers in equal shares under the schemas of `bench/schemas.py`, at temperature 0.8, each with
a seed of its own, of at most `--max-tokens` tokens. Each text is read by Python's `json` and checked by `jsonschema`
(Draft 2020-12, with formats: its own checkers, and Python's `datetime` for times), neither of which the grammar uses.
An answer that the limit cut counts as invalid. `--loose` leaves the limit out of the constraint, so that nothing leads
a text to its end: what that guidance is worth.

Overhead: each round answers every case once with the constraint, and once more without it and without stop tokens, each
sequence for the same number of tokens: the same prompts, lengths and slots, in turn, so that load hits both. The figure
is the median over the rounds of the ratio of their times, less 1. `in_constraint` is the share of the constrained time
that passes inside `allowed` and `accept`; the rest is the engine's, which moves a mask to the device and applies it.

What it does not cover: whether the content is any good, other models, accelerators.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import jsonschema
import numpy
import torch

from bench.common import paired_ratio, write_result
from bench.schemas import CASES, Case
from pocketlm.data.tokens.chat import encode_chat
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.evaluation.models.loading import load
from pocketlm.generation.grammar import Grammars
from pocketlm.generation.live import LiveEngine
from pocketlm.generation.requests import Completion, Constraint, Request
from pocketlm.model.packing import pack
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.seeds import derive_seed

TEMPERATURE = 0.8
WARM_TOKENS = 8
ASKED = "{request} Answer with JSON only."


@dataclass
class Timed:
    """A constraint that counts the seconds spent in it."""

    inner: Constraint
    seconds: list[float]

    def allowed(self) -> numpy.ndarray:
        start = perf_counter()
        words = self.inner.allowed()
        self.seconds.append(perf_counter() - start)
        return words

    def accept(self, token: int) -> bool:
        start = perf_counter()
        complete = self.inner.accept(token)
        self.seconds.append(perf_counter() - start)
        return complete


class Subject:
    """The model, and what is asked of it."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        cases: Sequence[Case],
        slots: int,
        max_tokens: int,
        loose: bool,
    ) -> None:
        self.tokenizer, self.cases, self.max_tokens = tokenizer, cases, max_tokens
        grammars = Grammars(tokenizer, model.settings.vocabulary)
        limit = None if loose else max_tokens
        self.constraints = {case.name: grammars.json_schema(case.schema, limit) for case in cases}
        self._model, self._slots = model, slots
        self._length = max(len(self.prompt(case)) for case in cases) + max_tokens

    def prompt(self, case: Case) -> list[int]:
        message = {"role": "user", "content": ASKED.format(request=case.request)}
        return encode_chat(self.tokenizer, [message], add_generation_prompt=True)[0]

    def request(self, case: Case, seed: int) -> Request:
        return Request(
            self.prompt(case),
            self.max_tokens,
            TEMPERATURE,
            derive_seed(seed, "constrained decoding", case.name),
            stop_tokens=(self.tokenizer.turn_end, self.tokenizer.end_of_text),
            constraint=self.constraints[case.name],
        )

    def answers(self, requests: Sequence[Request], told: Callable[[int], None] | None = None) -> list[Completion | str]:
        """The completion of each request, or the fault that ended it."""
        engine = LiveEngine(self._model, self._slots, self._length)
        places = {engine.add(request): place for place, request in enumerate(requests)}
        answers: list[Completion | str] = [""] * len(requests)
        done = 0
        while engine.waiting or engine.active:
            for progress in engine.advance():
                answer = progress.completion or progress.fault
                if answer is not None:
                    answers[places[progress.ticket]] = answer
                    done += 1
                    if told is not None:
                        told(done)
        return answers


def checkers() -> dict[str, jsonschema.Draft202012Validator]:
    formats = jsonschema.FormatChecker()
    formats.checks("date-time", ValueError)(lambda value: bool(datetime.fromisoformat(value)))
    formats.checks("time", ValueError)(lambda value: bool(datetime.fromisoformat(f"2024-01-01T{value}")))
    return {case.name: jsonschema.Draft202012Validator(case.schema, format_checker=formats) for case in CASES}


def verdict(text: str, checker: jsonschema.Draft202012Validator) -> str:
    """`valid`, `not JSON`, or `not valid`."""
    try:
        value = json.loads(text)
    except ValueError:
        return "not JSON"
    return "valid" if checker.is_valid(value) else "not valid"


def validity(subject: Subject, generations: int) -> dict[str, Any]:
    """Shares over all cases and for each, and examples of what failed."""
    validators = checkers()
    cases = subject.cases
    asked = [(cases[place % len(cases)], place // len(cases)) for place in range(generations)]
    start = perf_counter()

    def told(done: int) -> None:
        if done % 50 == 0:
            print(f"{done} of {generations} after {perf_counter() - start:.0f} s", flush=True)

    answers = subject.answers([subject.request(case, seed) for case, seed in asked], told)
    rows: dict[str, Counter[str]] = {case.name: Counter() for case in cases}
    lengths: dict[str, list[int]] = {case.name: [] for case in cases}
    texts: dict[str, set[str]] = {case.name: set() for case in cases}
    failed = []
    for (case, seed), answer in zip(asked, answers, strict=True):
        if isinstance(answer, str):
            rows[case.name]["fault"] += 1
            failed.append({"case": case.name, "seed": seed, "verdict": "fault", "text": answer})
            continue
        text = subject.tokenizer.decode(answer.tokens)
        found = "cut" if answer.finish == "length" else verdict(text, validators[case.name])
        rows[case.name][found] += 1
        lengths[case.name].append(len(answer.log_probabilities))
        texts[case.name].add(text)
        if found != "valid":
            failed.append({"case": case.name, "seed": seed, "verdict": found, "text": text})
    total = sum(rows.values(), Counter())
    json_texts = total["valid"] + total["not valid"]
    return {
        "generations": generations,
        "valid_json": round(json_texts / generations, 4),
        "valid_under_schema": round(total["valid"] / generations, 4),
        "verdicts": dict(total),
        "seconds": round(perf_counter() - start, 1),
        "cases": {
            name: {
                "verdicts": dict(row),
                "different_texts": len(texts[name]),
                "median_tokens": median(lengths[name]) if lengths[name] else None,
                "most_tokens": max(lengths[name], default=None),
            }
            for name, row in rows.items()
        },
        "failed": failed[:20],
    }


def overhead(subject: Subject, rounds: int) -> dict[str, Any]:
    """Times with and without the constraint over the same lengths."""
    seconds: dict[str, list[float]] = {"constrained": [], "free": []}
    inside: list[float] = []
    tokens = 0

    def timed(request: Request) -> Request:
        make = request.constraint
        return replace(request, constraint=None if make is None else lambda: Timed(make(), inside))

    subject.answers([replace(subject.request(case, 0), max_tokens=WARM_TOKENS) for case in subject.cases])
    for number in range(rounds):
        requests = [subject.request(case, 10_000 + number) for case in subject.cases]
        start = perf_counter()
        answers = subject.answers([timed(request) for request in requests])
        seconds["constrained"].append(perf_counter() - start)
        lengths = [1 if isinstance(answer, str) else len(answer.log_probabilities) for answer in answers]
        free = [
            replace(request, max_tokens=length, stop_tokens=(), constraint=None)
            for request, length in zip(requests, lengths, strict=True)
        ]
        start = perf_counter()
        subject.answers(free)
        seconds["free"].append(perf_counter() - start)
        tokens += sum(lengths)
    return {
        "rounds": rounds,
        "tokens_a_round": round(tokens / rounds),
        "tokens_per_second": {name: round(tokens / sum(values), 1) for name, values in seconds.items()},
        "overhead": round(paired_ratio(seconds["constrained"], seconds["free"]) - 1, 4),
        "overhead_by_round": [
            round(one / other - 1, 4) for one, other in zip(seconds["constrained"], seconds["free"], strict=True)
        ],
        "in_constraint": round(sum(inside) / sum(seconds["constrained"]), 4),
        "microseconds_a_token": round(1e6 * sum(inside) / tokens, 1),
        "slowest_milliseconds": round(1e3 * max(inside), 2),
    }


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load(arguments.model)
    pack(model)  # as the server does
    subject = Subject(
        model, tokenizer, CASES[: arguments.cases], arguments.slots, arguments.max_tokens, arguments.loose
    )
    payload: dict[str, Any] = {
        "model": arguments.model.name,
        "parameters": model.settings.parameter_count(),
        "slots": arguments.slots,
        "max_tokens": arguments.max_tokens,
        "temperature": TEMPERATURE,
        "loose": arguments.loose,
        "schemas": len(subject.cases),
    }
    if arguments.rounds:
        payload["overhead"] = overhead(subject, arguments.rounds)
        print(payload["overhead"], flush=True)
    if arguments.generations:
        payload["validity"] = validity(subject, arguments.generations)
        for name, row in payload["validity"]["cases"].items():
            print(f"{name:18s} {row}")
        print({key: value for key, value in payload["validity"].items() if key not in ("cases", "failed")})
        for failure in payload["validity"]["failed"][:5]:
            print(failure)
    print(write_result(arguments.name, payload, ("llguidance", "jsonschema")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="run folder, model folder or GGUF file")
    parser.add_argument("--generations", type=int, default=1000, help="0: no validity")
    parser.add_argument("--rounds", type=int, default=5, help="0: no overhead")
    parser.add_argument("--cases", type=int, default=len(CASES), help="the first of them, for a trial")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loose", action="store_true", help="nothing leads a text to its end")
    parser.add_argument("--name", default="constrained_decoding", help="of the file of results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
