"""Kill -9 a run at random moments spread over all stages, run again, and compare with an uninterrupted run.

    python -m bench.kill_and_resume --kills 20                    # rehearsal scale
    python -m bench.kill_and_resume --kills 3 --scale "" --reference runs/quickstart

Every kill aims at a random share of the duration of one stage, stages in turn; a kill counts only if the process was
alive and inside a stage when it was killed, and runs are begun anew until as many have counted as were asked for. Equal
means: the digest of every artifact and every figure of report.json.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.common import machine, versions, write_result


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        reference = arguments.reference
        if reference is None:
            reference = Path(scratch) / "uninterrupted"
            subprocess.run(_command(reference, arguments.scale), check=True)
        chooser = random.Random(arguments.seed)
        kills: list[dict[str, Any]] = []
        differing: list[str] = []
        survived = runs = 0
        while len(kills) < arguments.kills:
            runs += 1
            folder = Path(scratch) / f"killed-{runs}"
            wanted = arguments.kills - len(kills)
            counted = _run_with_kills(folder, _seconds(folder.parent, reference), arguments.scale, wanted, chooser)
            found = _differences(reference, folder)
            kills += counted
            differing += found
            survived += 0 if found else len(counted)
            print(f"run {runs}: {len(counted)} kills, {len(found)} differences", flush=True)
    kind = arguments.scale or "full"
    payload = {
        "machine": machine(),
        "versions": versions(),
        "scale": kind,
        "runs": runs,
        "kills": kills,
        "kills_survived": survived,
        "differing": differing,
    }
    print(
        json.dumps({"kills": len(kills), "by_stage": Counter(kill["stage"] for kill in kills), "differing": differing})
    )
    write_result(f"kill_and_resume_{kind}", payload)
    sys.exit(bool(differing))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many have to count")
    parser.add_argument("--scale", default="rehearsal")
    parser.add_argument("--reference", type=Path, help="a finished uninterrupted run; made when left out")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _command(folder: Path, scale: str) -> list[str]:
    scaled = ["--scale", scale] if scale else []
    return [sys.executable, "-m", "pocketlm", "run", "quickstart", "--out", str(folder), *scaled]


def _run_with_kills(
    folder: Path, seconds: dict[str, float], scale: str, wanted_kills: int, chooser: random.Random
) -> list[dict[str, Any]]:
    targets = [list(seconds)[place * len(seconds) // wanted_kills] for place in range(wanted_kills)]
    kills = []
    for target in targets:
        wanted = chooser.random() * seconds[target]
        process = subprocess.Popen(_command(folder, scale), stderr=subprocess.DEVNULL, text=True)
        while process.poll() is None and not _inside(folder, target):
            time.sleep(0.02)
        deadline = time.monotonic() + wanted
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        alive = process.poll() is None
        stage = _stage_under_way(folder)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if alive and stage is not None:
            kills.append({"stage": stage, "after_seconds": round(wanted, 3)})
    subprocess.run(_command(folder, scale), check=True)
    return kills


def _seconds(scratch: Path, reference: Path) -> dict[str, float]:
    """The shortest time that each stage took so far: the first run may have compiled kernels."""
    seconds: dict[str, float] = {}
    for folder in (reference, *sorted(scratch.glob("killed-*"))):
        for body in _bodies(folder, "stage_committed"):
            if body["seconds"]:
                seconds[body["stage"]] = min(body["seconds"], seconds.get(body["stage"], body["seconds"]))
    return seconds


def _bodies(folder: Path, event: str) -> list[dict[str, Any]]:
    path = folder / "ledger.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [line["body"] for line in events if line["event"] == event]


def _stage_under_way(folder: Path) -> str | None:
    """The stage that was started last, if it was not committed since."""
    started = [body["stage"] for body in _bodies(folder, "stage_started")]
    committed = {body["stage"] for body in _bodies(folder, "stage_committed")}
    return started[-1] if started and started[-1] not in committed else None


def _inside(folder: Path, target: str) -> bool:
    """The target stage is under way or behind us."""
    return target in {body["stage"] for body in _bodies(folder, "stage_started")} and (
        _stage_under_way(folder) == target or target in {body["stage"] for body in _bodies(folder, "stage_committed")}
    )


def _differences(reference: Path, folder: Path) -> list[str]:
    differing = []
    for path in sorted((reference / "artifacts").iterdir()):
        ours = json.loads((folder / "artifacts" / path.name / "manifest.json").read_text(encoding="utf-8"))
        theirs = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if ours["digest"] != theirs["digest"]:
            differing.append(f"digest of {path.name}")
    figures = [json.loads((run / "report.json").read_text(encoding="utf-8"))["stages"] for run in (reference, folder)]
    return differing + ([] if figures[0] == figures[1] else ["figures of report.json"])


if __name__ == "__main__":
    main()
