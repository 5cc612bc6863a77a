"""Exactly N bullet points, counted.

Right is an answer that ended by itself and consists of N lines that each start with a bullet ("-", "*", "•" or "1."),
no two the same. Blank lines do not count; before the first bullet one line that ends with ":" may stand, after it
nothing else. Whether the points are about the topic is not judged.
"""

from __future__ import annotations

import re

from pocketlm.evaluation.behaviour.task import Row, Verdict, asked, in_hash_order, verdict

TOPICS = (
    *("the sea", "dogs", "bread", "rain", "bicycles", "trees", "music", "winter", "the moon", "milk", "school"),
    *(
        "books",
        "horses",
        "the kitchen",
        "a garden",
        "trains",
        "birds",
        "water",
        "summer",
        "a birthday",
        "apples",
        "sleep",
    ),
)
MOST_BULLETS = 10
BULLET = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])\s+(?=\S)")


def items() -> list[Row]:
    """Every topic with every number."""
    return in_hash_order(
        {
            "id": f"bullets/{count}/{topic}",
            "level": f"{count} bullets" if count > 1 else "1 bullet",
            "messages": asked(
                f"Write exactly {count} short bullet point{'s' if count > 1 else ''} about {topic}, "
                "each on a line of its own, and nothing else."
            ),
            "answer": f"{count} bullets",
            "count": count,
        }
        for count in range(1, MOST_BULLETS + 1)
        for topic in TOPICS
    )


def check(row: Row, output: str, finish: str) -> Verdict:
    """Count; measures: bullets, right_count (whatever else stands in the answer)."""
    lines = [line for line in output.splitlines() if line.strip()]
    points = [BULLET.sub("", line, count=1).strip().lower() for line in lines if BULLET.match(line)]
    measures = {"bullets": float(len(points)), "right_count": float(len(points) == row["count"])}
    if finish != "stop":
        return verdict("the answer was cut", measures)
    if len(points) != row["count"]:
        return verdict(f"{len(points)} bullets", measures)
    if len(set(points)) < len(points):
        return verdict("a bullet stands twice", measures)
    if not all(any(map(str.isalpha, point)) for point in points):
        return verdict("a bullet says nothing", measures)
    others = [place for place, line in enumerate(lines) if not BULLET.match(line)]
    introduced = others == [0] and lines[0].rstrip().rstrip("*").endswith(":")
    return verdict("" if not others or introduced else "something else than bullets stands in the answer", measures)
