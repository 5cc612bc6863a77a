"""Tamper with a finished run in 200 random ways and by forgery, and count what `pocketlm verify` finds.

    python -m bench.tampering RUN

Every tampering is done to a copy, verified up to the first difference, and undone by copying the file anew. What a
forger can do who makes everything fit again is counted by itself: it must be found with `--seal`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.common import write_result
from bench.forgeries import FORGERIES
from bench.tamper_kinds import KINDS, Cannot
from pocketlm.commands import derive_report
from pocketlm.pipeline.ledger import LEDGER, read_ledger
from pocketlm.pipeline.recipe import Registry
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.pipeline.runner import RECIPE
from pocketlm.pipeline.verification import Derive, checks_of_run
from pocketlm.stages import registry

TAMPERINGS = 200
SHOWN = 300


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run, file by file: a hard link would lead back to the run itself."""
    return Path(shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("work")))


def first_difference(
    run: Path, seal: str | None = None, derive: Derive = derive_report, stages: Registry | None = None
) -> str:
    """The first thing that verify finds; empty when it finds nothing."""
    for check in checks_of_run(run, stages or registry(), derive, seal):
        if check.problems:
            return f"{check.name}: {check.problems[0]}"
    return ""


def tampered(pristine: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` tamperings by the proportions of `KINDS`, each with the check that found it, or an empty text."""
    wanted = [kind for kind, share in KINDS for _ in range(share)]
    draw = random.Random(seed)
    draw.shuffle(wanted)
    rows = []
    for number in range(count):
        kind = wanted[number % len(wanted)]
        with tempfile.TemporaryDirectory() as scratch:
            run = copied(pristine, Path(scratch))
            try:
                kind(run, random.Random(f"{seed} {number}"))
            except Cannot as error:
                rows.append({"kind": kind.__name__, "found_by": None, "why": str(error)})
                continue
            found = first_difference(run)
            rows.append({"kind": kind.__name__, "found_by": found.partition(":")[0], "why": found[:SHOWN]})
    return rows


def forged(pristine: Path, seal: str) -> list[dict[str, Any]]:
    """Each consistent rewrite: what finds it without the seal, and with it."""
    rows = []
    for name, forgery in FORGERIES.items():
        with tempfile.TemporaryDirectory() as scratch:
            run = copied(pristine, Path(scratch))
            outer = forgery(run) or seal
            without, with_seal = first_difference(run), first_difference(run, outer)
            rows.append({"forgery": name, "without_seal": without[:SHOWN], "with_seal": with_seal[:SHOWN]})
    return rows


def main() -> None:
    """Write bench/results/tampering.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=TAMPERINGS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seal = read_ledger(arguments.run / LEDGER)[-1]["hash"]
    began = time.monotonic()
    untouched = first_difference(arguments.run, seal)
    seconds = round(time.monotonic() - began, 1)
    rows = tampered(arguments.run, arguments.count, arguments.seed)
    forgeries = forged(arguments.run, seal)
    done = [row for row in rows if row["found_by"] is not None]
    missed = [row for row in done if not row["found_by"]]
    files = [path for path in arguments.run.rglob("*") if path.is_file()]
    size = round(sum(path.stat().st_size for path in files) / 1e6, 1)
    payload = {
        "run": {"recipe": load_yaml(arguments.run / RECIPE)["name"], "files": len(files), "megabytes": size},
        "untouched": {"differences": untouched, "seconds": seconds},
        "tamperings": len(done),
        "detected": len(done) - len(missed),
        "missed": missed,
        "not_possible": [row for row in rows if row["found_by"] is None],
        "by_kind": dict(sorted(Counter(row["kind"] for row in done).items())),
        "found_by": dict(sorted(Counter(row["found_by"] for row in done).items())),
        "forgeries": forgeries,
        "seed": arguments.seed,
    }
    print(json.dumps(payload, indent=2))
    print(write_result("tampering", payload))


if __name__ == "__main__":
    main()
