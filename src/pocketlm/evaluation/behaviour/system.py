"""Following a system message over several turns, in the manner of SysBench (arXiv 2408.10943).

A session is a system message that sets one rule, and three questions of a user. Each turn is an item. The assistant's
earlier turns are given, not generated: they follow the rule, so that every item is one call and is judged by itself.
That makes later turns easier than with a model's own mistakes in its history.

*Followed*: the whole answer keeps the rule. *Answered*: it holds the answer, which needs next to no knowledge. Right is
both, in an answer that ended by itself and does not repeat system message or question; so nobody scores by keeping
silent, by one word for everything or by echo.

Not covered: several rules at once, tone and style that need a judge, the model's own answers in the history.
"""

from __future__ import annotations

from pocketlm.evaluation.behaviour.constraints import followed
from pocketlm.evaluation.behaviour.system_sessions import KINDS, SESSIONS, Turn
from pocketlm.evaluation.behaviour.task import Row, Verdict, in_hash_order, verdict
from pocketlm.evaluation.behaviour.texts import echoes, stands_in


def items() -> list[Row]:
    """All turns of all sessions, those of a session together and in their order."""
    rows = [
        row
        for kind, make in KINDS.items()
        for number in range(SESSIONS)
        for row in _rows(kind, f"system/{kind}/{number}", *make(number))
    ]
    return in_hash_order(rows, "session")


def check(row: Row, output: str, finish: str) -> Verdict:
    """Judge the whole answer; measures: followed, answered."""
    keeps = finish == "stop" and followed(row["constraint"], output)
    answers = all(stands_in(words, output) for words in row["needed"])
    repeated = any(echoes(output, message["content"]) for message in row["messages"] if message["role"] != "assistant")
    measures = {"followed": float(keeps and not repeated), "answered": float(answers and not repeated)}
    if finish != "stop":
        return verdict("the answer was cut", measures)
    if repeated:
        return verdict("it repeats what it was asked", measures)
    if not keeps:
        return verdict("the rule is broken", measures)
    return verdict("" if answers else "the question is not answered", measures)


def _rows(kind: str, session: str, system: str, turns: list[Turn]) -> list[Row]:
    messages = [{"role": "system", "content": system}]
    rows = []
    for number, turn in enumerate(turns, start=1):
        messages = [*messages, {"role": "user", "content": turn.question}]
        rows.append(
            {
                "id": f"{session}/{number}",
                "level": kind,
                "session": session,
                "turn": number,
                "messages": messages,
                "answer": turn.given,
                "needed": [list(words) for words in turn.needed],
                "constraint": dict(turn.constraint),
            }
        )
        messages = [*messages, {"role": "assistant", "content": turn.given}]
    return rows
