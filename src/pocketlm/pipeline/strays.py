"""What lies in a sealed run folder and belongs to nothing in it: a reader could mistake it for a result."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketlm.pipeline.ledger import LEDGER
from pocketlm.pipeline.lock import LOCK
from pocketlm.pipeline.runner import ARTIFACTS, RECIPE, WORK, work_name
from pocketlm.pipeline.storage import read_manifest

KNOWN = (RECIPE, LEDGER, LOCK, ARTIFACTS, WORK, "report.html", "report.json", "lineage.prov.json")


def stray_problems(folder: Path, stages: Collection[str], lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each stray file, folder and link.

    Args:
        stages: those that were sealed; their manifests must hold. lines: of the ledger.
    """
    strays = [path for path in sorted(folder.iterdir()) if path.name not in KNOWN]
    lock = folder / LOCK
    if lock.exists() and lock.stat().st_size:
        strays.append(lock)
    artifacts = folder / ARTIFACTS
    if artifacts.is_dir():
        strays += [path for path in sorted(artifacts.iterdir()) if path.name not in stages]
        strays += [path for stage in stages for path in _unlisted(artifacts / stage)]
    strays += _foreign_work(folder / WORK, lines)
    links = [folder / name for name in KNOWN if (folder / name).is_symlink()]
    return [
        *(f"{path} belongs to no stage of this run" for path in strays),
        *(f"{path} is a link: what it points to can change" for path in links),
    ]


def left_work(folder: Path) -> str:
    """Words on what is left in `work/`; empty when nothing is."""
    work = folder / WORK
    if not work.is_dir() or not any(work.iterdir()):
        return ""
    return f"{work} holds scratch files of stopped stages, which are not checked; `pocketlm runs gc` removes them"


def _unlisted(artifact: Path) -> Iterator[Path]:
    """Folders that no listed file needs, and what is neither file nor folder. Files are hashed elsewhere."""
    needed = {parent for name in read_manifest(artifact)["files"] for parent in (artifact / name).parents}
    for path in sorted(artifact.rglob("*")):
        if path not in needed if path.is_dir() else not path.is_file():
            yield path


def _foreign_work(work: Path, lines: Sequence[Mapping[str, Any]]) -> Iterator[Path]:
    """What no stage left behind: a stage that was stopped, and then ran with other settings, leaves its folder."""
    if not work.is_dir():
        if work.exists():
            yield work
        return
    started = [line["body"] for line in lines if line["event"] == "stage_started"]
    own = {work_name(body["stage"], body["fingerprint"]) for body in started}
    for path in sorted(work.iterdir()):
        if path.is_symlink() or not path.is_dir() or (path.name not in own and any(path.iterdir())):
            yield path
