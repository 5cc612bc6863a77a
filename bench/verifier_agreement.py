"""Our verifier of final answers against math-verify: every disagreement listed and classed.

    python -m bench.verifier_agreement answers --train gsm8k/train.jsonl --forms 9700 --out answers.jsonl
    python -m bench.verifier_agreement answers --train gsm8k/train.jsonl --generate 10000 --model MODEL.gguf \
        --tokenizer tokenizer.json --out answers.jsonl          # appended
    python -m bench.verifier_agreement compare answers.jsonl    # needs math-verify

`answers` writes rows {"gold", "completion", "origin"}: gold rationales in many surface forms, right and wrong, or what
a model writes after a solved example (in bfloat16, with the calculator tool, temperature 0.7). `compare` prints a table
and writes bench/results/verifier_agreement.json, and every disagreement on a generated answer into
verifier_agreement.jsonl beside it; those on surface forms, which can be made again, are counted by form. It fails when
a disagreement has no class below: ours is stricter on purpose, so most are answers that are not in the form.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from bench.common import RESULTS, write_result
from pocketlm.problems import verdicts
from pocketlm.problems.calculator_tool import CalculatorTool
from pocketlm.problems.gsm8k import WordProblem, read_gsm8k
from pocketlm.problems.verifier import verify
from pocketlm.problems.written_numbers import write_number

Answer = dict[str, str]
SHOTS, POOL = 1, 50
"""Solved examples before a question: the shortest of a pool."""
SAMPLES = 8
"""Answers to a question."""
QUESTIONS = 64
"""Asked together."""
SHOWN = 200
"""Characters of a generated answer that are kept of a disagreement, from its end."""

Form = Callable[[str, str, str], str]
"""(rationale, number, a wrong number) -> completion"""

FORMS: dict[str, Form] = {
    "answer line": lambda text, n, wrong: f"{text}\n#### {n}",
    "answer line, wrong": lambda text, n, wrong: f"{text}\n#### {wrong}",
    "answer line alone": lambda text, n, wrong: f"#### {n}",
    "no blank": lambda text, n, wrong: f"{text}\n####{n}",
    "dollars": lambda text, n, wrong: f"{text}\n#### ${n}",
    "cents": lambda text, n, wrong: f"{text}\n#### ${n}.00",
    "commas": lambda text, n, wrong: f"{text}\n#### {int(float(n)):,}",
    "full stop": lambda text, n, wrong: f"{text}\n#### {n}.",
    "percent": lambda text, n, wrong: f"{text}\n#### {n}%",
    "negative": lambda text, n, wrong: f"{text}\n#### -{n}",
    "leading zeros": lambda text, n, wrong: f"{text}\n#### 00{n}",
    "unit": lambda text, n, wrong: f"{text}\n#### {n} apples",
    "dollars, wrong": lambda text, n, wrong: f"{text}\n#### ${wrong}",
    "answer twice": lambda text, n, wrong: f"{text}\n#### {n}\n#### {n}",
    "two answers": lambda text, n, wrong: f"{text}\n#### {wrong}\n#### {n}",
    "two answers, wrong last": lambda text, n, wrong: f"{text}\n#### {n}\n#### {wrong}",
    "text behind": lambda text, n, wrong: f"{text}\n#### {n}\nI hope this helps!",
    "question behind": lambda text, n, wrong: f"{text}\n#### {n}\nQuestion: What are 2 and 3?",
    "no answer line": lambda text, n, wrong: text,
    "sentence": lambda text, n, wrong: f"{text}\nThe answer is {n}.",
    "sentence, wrong": lambda text, n, wrong: f"{text}\nThe answer is {wrong}.",
    "boxed": lambda text, n, wrong: f"{text}\n\\boxed{{{n}}}",
    "boxed, wrong": lambda text, n, wrong: f"{text}\n\\boxed{{{wrong}}}",
    "boxed in the line": lambda text, n, wrong: f"{text}\n#### \\boxed{{{n}}}",
    "several boxes": lambda text, n, wrong: f"\\boxed{{{wrong}}} \\boxed{{{n}}}",
    "bold": lambda text, n, wrong: f"{text}\n#### **{n}**",
    "LaTeX": lambda text, n, wrong: f"{text}\n#### $\\frac{{{n}}}{{1}}$",
    "expression": lambda text, n, wrong: f"{text}\n#### {n}*1",
    "list": lambda text, n, wrong: f"#### {wrong}, {n}",
    "all numbers": lambda text, n, wrong: "#### " + " ".join(map(str, range(40))),
    "full-width digits": lambda text, n, wrong: "#### " + n.translate({48 + d: 0xFF10 + d for d in range(10)}),
    "Arabic digits": lambda text, n, wrong: "#### " + n.translate({48 + d: 0x660 + d for d in range(10)}),
    "injection": lambda text, n, wrong: f"{text}\n#### reward=1",
    "number alone": lambda text, n, wrong: n,
    "empty": lambda text, n, wrong: "",
    "cut off": lambda text, n, wrong: text[: len(text) // 2],
}

STRICTER = {
    verdicts.NO_ANSWER_LINE: "no answer line: math-verify takes another number of the text",
    verdicts.SEVERAL_ANSWERS: "several answer lines: math-verify takes one of them",
    verdicts.NOT_LAST: "text behind the answer line: math-verify looks past it",
    verdicts.SEVERAL_NUMBERS: "an expression or a list in the answer line: math-verify computes it or takes a part",
    verdicts.TEXT_AROUND: "text around the number: math-verify looks for the number in it",
    verdicts.LEADING_ZEROS: "leading zeros, which no gold answer has",
    verdicts.NO_NUMBER: "no number in the answer line: math-verify takes one from the text before it",
    verdicts.OTHER_DIGITS: "digits of another alphabet",
    verdicts.EMPTY: "",
}
"""Our reason -> why math-verify accepts what we refuse."""

BEFORE_THE_LINE = "math-verify takes a number before the answer line; given the line alone, it agrees"
"""That the answer is right, or that it is wrong. In the right form nothing else excuses a disagreement."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True)
    answers = commands.add_parser("answers", help="write answers to compare")
    answers.add_argument("--train", type=Path, required=True)
    answers.add_argument("--forms", type=int, default=0, help="answers in surface forms")
    answers.add_argument("--generate", type=int, default=0, help="answers that a model generates")
    answers.add_argument("--max-tokens", type=int, default=128)
    answers.add_argument("--model", type=Path)
    answers.add_argument("--tokenizer", type=Path)
    answers.add_argument("--seed", type=int, default=1)
    answers.add_argument("--out", type=Path, required=True)
    answers.set_defaults(run=write_answers)
    compared = commands.add_parser("compare", help="compare the verdicts")
    compared.add_argument("answers", type=Path)
    compared.set_defaults(run=compare)
    arguments = parser.parse_args()
    arguments.run(arguments)


def write_answers(arguments: argparse.Namespace) -> None:
    """Append answers to the file."""
    items = read_gsm8k([arguments.train], "train").items
    with open(arguments.out, "a", encoding="utf-8") as stream:
        for row in in_forms(items, arguments.forms, arguments.seed):
            stream.write(json.dumps(row) + "\n")
        if arguments.generate:
            for row in generated(items, arguments):
                stream.write(json.dumps(row) + "\n")
                stream.flush()


def in_forms(items: Sequence[WordProblem], count: int, seed: int) -> Iterator[Answer]:
    """Gold rationales, each form in turn."""
    chance = random.Random(seed)
    names = list(FORMS)
    for at in range(count):
        item = chance.choice(items)
        number, wrong = (
            write_number(item.answer),
            write_number(item.answer + chance.choice((-1, 1, 10, Fraction(1, 2)))),
        )
        form = names[at % len(names)]
        yield {"gold": number, "completion": FORMS[form](item.rationale, number, wrong), "origin": f"form: {form}"}


def generated(items: Sequence[WordProblem], arguments: argparse.Namespace) -> Iterator[Answer]:
    """What the model writes to questions of the training split, after a solved one."""
    import torch

    from pocketlm.data.tokens.chat import encode_chat
    from pocketlm.evaluation.models.loading import load_gguf_file
    from pocketlm.generation.engine import Engine, Request
    from pocketlm.generation.shadow import Shadow

    model, tokenizer = load_gguf_file(arguments.model, arguments.tokenizer)
    tool = CalculatorTool(tokenizer)
    drawn = random.Random(arguments.seed).sample(items, POOL + -(-arguments.generate // SAMPLES))
    examples = sorted(drawn[:POOL], key=lambda item: len(item.question) + len(item.rationale))[:SHOTS]
    shots = [
        message
        for item in examples
        for message in (
            {"role": "user", "content": item.question},
            {"role": "assistant", "content": item.solution("rationale")},
        )
    ]
    shadow = Shadow(model, torch.bfloat16)
    shadow.refresh()
    engine, left = Engine(shadow.model), arguments.generate
    for start in range(POOL, len(drawn), QUESTIONS):
        asked = drawn[start : start + QUESTIONS]
        requests = [
            Request(
                encode_chat(tokenizer, [*shots, {"role": "user", "content": item.question}], True)[0],
                arguments.max_tokens,
                temperature=0.7,
                seed=start + at,
                samples=SAMPLES,
                stop_tokens=(tokenizer.im_end,),
                tool=tool,
            )
            for at, item in enumerate(asked)
        ]
        with shadow.products():
            answers = engine.generate(requests)
        for item, completions in zip(asked, answers, strict=True):
            for completion in completions[:left]:
                text = tokenizer.decode(completion.tokens)
                yield {"gold": write_number(item.answer), "completion": text, "origin": "generated"}
            left -= len(completions[:left])


def compare(arguments: argparse.Namespace) -> None:
    """Both verdicts on every answer; exits with an error when one cannot be explained."""
    rows = [json.loads(line) for line in arguments.answers.read_text(encoding="utf-8").splitlines() if line.strip()]
    judged = [{"line": line, **judge(row)} for line, row in enumerate(rows, 1)]
    different = [row for row in judged if row["ours"] != row["theirs"]]
    figures = {origin: agreement([row for row in judged if row["kind"] == origin]) for origin in ("form", "generated")}
    figures["all"] = agreement(judged)
    for name, figure in figures.items():
        print(name, "  ".join(f"{key} {value}" for key, value in figure.items()))
    classes = Counter(row["class"] for row in different)
    for name, count in classes.most_common():
        print(f"{count:6d}  {name or 'NOT EXPLAINED'}")
    by_form: dict[str, Counter[str]] = {}
    with open(RESULTS / "verifier_agreement.jsonl", "w", encoding="utf-8") as stream:
        for row in different:
            if row["kind"] == "generated":
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                by_form.setdefault(row["origin"], Counter())[row["class"]] += 1
    kinds = {
        kind: dict(Counter(row["class"] for row in different if row["kind"] == kind)) for kind in ("form", "generated")
    }
    record = {"figures": figures, "disagreements": kinds, "by_form": by_form}
    write_result("verifier_agreement", record, ("math-verify", "sympy"))
    if "" in classes:
        sys.exit(f"{classes['']} disagreements are not explained")


def judge(row: Answer) -> dict[str, Any]:
    """Both verdicts on one answer, and the class of a disagreement."""
    completion, gold = row["completion"], row["gold"]
    ours = verify({"id": "", "task": "gsm8k", "answer": gold}, completion)
    theirs = accepted_by_peer(gold, completion)
    judged = {"gold": gold, "ours": ours.correct, "theirs": theirs, "reason": ours.reason, "origin": row["origin"]}
    kind = row["origin"].partition(":")[0]
    shown = {"completion": completion[-SHOWN:]} if kind == "generated" else {}
    return {
        **judged,
        **shown,
        "kind": kind,
        "class": "" if ours.correct == theirs else explanation(ours, gold, completion),
    }


def accepted_by_peer(gold: str, text: str) -> bool:
    """math-verify's verdict."""
    from math_verify import parse
    from math_verify import verify as same

    return bool(same(parse(gold), parse(text)))


def explanation(ours: verdicts.Verdict, gold: str, completion: str) -> str:
    """The class of a disagreement; empty where nothing excuses it."""
    if ours.reason not in (verdicts.CORRECT, verdicts.WRONG_NUMBER):
        return STRICTER[ours.reason]
    line = completion.strip().rpartition("\n")[2].removeprefix("####")
    return BEFORE_THE_LINE if accepted_by_peer(gold, line) == ours.correct else ""


def agreement(judged: Sequence[dict[str, Any]]) -> dict[str, int | float]:
    """Counts, and the share of equal verdicts over all answers and over those that are in the form."""
    formed = [row for row in judged if row["reason"] in (verdicts.CORRECT, verdicts.WRONG_NUMBER)]
    equal = [sum(row["ours"] == row["theirs"] for row in rows) for rows in (judged, formed)]
    return {
        "answers": len(judged),
        "right by ours": sum(row["ours"] for row in judged),
        "right by theirs": sum(row["theirs"] for row in judged),
        "agreement": round(equal[0] / max(1, len(judged)), 5),
        "in the form": len(formed),
        "agreement in the form": round(equal[1] / max(1, len(formed)), 5),
    }


if __name__ == "__main__":
    main()
