"""Ways to tamper with a finished run, one function each: of a copy and a random source."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from bench import forging
from pocketlm.pipeline.artifact import FIGURES
from pocketlm.pipeline.ledger import LEDGER, Ledger, read_ledger
from pocketlm.pipeline.runner import RECIPE
from pocketlm.pipeline.storage import MANIFEST, describe_files, digest_of, json_bytes, read_manifest

SESSION = ("run_started", "run_finished", "seal")
Tamper = Callable[[Path, random.Random], None]


class Cannot(Exception):
    """This run has nothing that a tampering could be done to."""


def files_of(run: Path) -> list[Path]:
    """Every file in an artifact but its manifest."""
    found = [path for path in sorted(run.glob("artifacts/**/*")) if path.is_file() and path.name != MANIFEST]
    return [path for path in found if path.stat().st_size]


def flipped_bit(run: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(run))
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def changed_byte(run: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(run))
    data = bytearray(path.read_bytes())
    at = draw.randrange(len(data))
    data[at] = (data[at] + draw.randrange(1, 256)) % 256
    path.write_bytes(data)


def appended_byte(run: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(run))
    path.write_bytes(path.read_bytes() + draw.randbytes(1))


def truncated_file(run: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(run))
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def deleted_file(run: Path, draw: random.Random) -> None:
    draw.choice(files_of(run)).unlink()


def swapped_files(run: Path, draw: random.Random) -> None:
    sizes: dict[int, list[Path]] = {}
    for path in files_of(run):
        sizes.setdefault(path.stat().st_size, []).append(path)
    pairs = [
        (one, other)
        for paths in sizes.values()
        for one in paths
        for other in paths
        if one < other and one.read_bytes() != other.read_bytes()
    ]
    if not pairs:
        raise Cannot("no two files of equal size")
    one, other = draw.choice(pairs)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def stray_file(run: Path, draw: random.Random) -> None:
    folders = [run, run / "artifacts", *(path for path in sorted(run.glob("artifacts/**")) if path.is_dir())]
    (draw.choice(folders) / f"notes-{draw.randrange(10**6)}.txt").write_text("all is well\n")


def link_for_file(run: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(run))
    outside = run.parent / "outside"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)


def ledger_lines(run: Path) -> list[bytes]:
    """The lines of the ledger, ends included."""
    return (run / LEDGER).read_bytes().splitlines(keepends=True)


def edited_line(run: Path, draw: random.Random) -> None:
    lines = ledger_lines(run)
    at = draw.randrange(len(lines))
    places = [place for place, byte in enumerate(lines[at]) if chr(byte).isdigit()]
    line = bytearray(lines[at])
    place = draw.choice(places)
    line[place] = ord(draw.choice([digit for digit in "0123456789" if digit != chr(line[place])]))
    lines[at] = bytes(line)
    (run / LEDGER).write_bytes(b"".join(lines))


def removed_line(run: Path, draw: random.Random) -> None:
    lines = ledger_lines(run)
    del lines[draw.randrange(len(lines) - 1)]
    (run / LEDGER).write_bytes(b"".join(lines))


def reordered_lines(run: Path, draw: random.Random) -> None:
    lines = ledger_lines(run)
    one, other = draw.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    (run / LEDGER).write_bytes(b"".join(lines))


def duplicated_line(run: Path, draw: random.Random) -> None:
    lines = ledger_lines(run)
    at = draw.randrange(len(lines))
    lines.insert(draw.randrange(len(lines) + 1), lines[at])
    (run / LEDGER).write_bytes(b"".join(lines))


def cut_tail(run: Path, draw: random.Random) -> None:
    lines = ledger_lines(run)
    (run / LEDGER).write_bytes(b"".join(lines[: -draw.randrange(1, len(lines))]))


def cut_inside_a_line(run: Path, draw: random.Random) -> None:
    data = (run / LEDGER).read_bytes()
    (run / LEDGER).write_bytes(data[: -draw.randrange(1, 400)])


def second_session(run: Path) -> None:
    """Another session that changed nothing: the ledger has two seals."""
    old = read_ledger(run / LEDGER)
    ledger, finished = Ledger(run), {"stages": list(old[-1]["body"]["artifacts"])}
    for event, body in zip(SESSION, (old[0]["body"], finished, old[-1]["body"]), strict=True):
        ledger.append(event, body)
    forging.publish(run)


def cut_to_the_older_seal(run: Path, draw: random.Random) -> None:
    second_session(run)
    lines = ledger_lines(run)
    older = max(at for at, line in enumerate(lines[:-1]) if json.loads(line)["event"] == "seal")
    (run / LEDGER).write_bytes(b"".join(lines[: older + 1]))


def edited_line_chained_again(run: Path, draw: random.Random) -> None:
    lines = read_ledger(run / LEDGER)
    timed = [line for line in lines if line["body"].get("seconds")]
    line = draw.choice(timed)
    line["body"]["seconds"] = round(2 * line["body"]["seconds"], 3)  # half of a millisecond would round to one
    forging.write_chain(run, lines)


def a_digit(text: str, draw: random.Random, within: slice = slice(None)) -> str:
    """The text with one of its digits changed."""
    places = [place for place in range(*within.indices(len(text))) if text[place].isdigit()]
    place = draw.choice(places)
    return text[:place] + draw.choice([digit for digit in "0123456789" if digit != text[place]]) + text[place + 1 :]


def figure_in_html(run: Path, draw: random.Random) -> None:
    path = run / "report.html"
    path.write_text(a_digit(path.read_text(encoding="utf-8"), draw), encoding="utf-8")


def figure_in_report_json(run: Path, draw: random.Random) -> None:
    path = run / "report.json"
    path.write_text(a_digit(path.read_text(encoding="utf-8"), draw), encoding="utf-8")


def figure_in_figures(run: Path, draw: random.Random) -> None:
    path = draw.choice(sorted(run.glob(f"artifacts/*/{FIGURES}")))
    path.write_text(a_digit(path.read_text(encoding="utf-8"), draw), encoding="utf-8")


def figure_in_manifest(run: Path, draw: random.Random) -> None:
    found = {path: json.loads(path.read_bytes()) for path in sorted(run.glob(f"artifacts/*/{MANIFEST}"))}
    path, name = draw.choice(
        [
            (path, name)
            for path, manifest in found.items()
            for name, value in manifest["metrics"].items()
            if isinstance(value, (int, float, dict))
        ]
    )
    manifest = found[path]
    value = manifest["metrics"][name]
    manifest["metrics"][name] = {**value, "value": 0.99} if isinstance(value, dict) else value + 1
    path.write_bytes(json_bytes(manifest))


def item_logs(run: Path) -> list[Path]:
    """The files in which an evaluation keeps every item."""
    found = [path for path in sorted(run.glob("artifacts/*/items/*.jsonl")) if '"correct": false' in path.read_text()]
    if not found:
        raise Cannot("no item that was answered wrongly")
    return found


def item_made_right(run: Path, draw: random.Random) -> Path:
    path = draw.choice(item_logs(run))
    parts = path.read_text(encoding="utf-8").split('"correct": false')
    at = draw.randrange(1, len(parts))
    path.write_text('"correct": false'.join(parts[:at]) + '"correct": true' + '"correct": false'.join(parts[at:]))
    return path


def item_log(run: Path, draw: random.Random) -> None:
    item_made_right(run, draw)


def item_log_and_manifest(run: Path, draw: random.Random) -> None:
    folder = item_made_right(run, draw).parent.parent
    files = describe_files(folder)
    manifest = {**read_manifest(folder), "files": files, "digest": digest_of(files)}
    (folder / MANIFEST).write_bytes(json_bytes(manifest))


def recipe(run: Path, draw: random.Random) -> None:
    path = run / RECIPE
    path.write_text(a_digit(path.read_text(encoding="utf-8"), draw), encoding="utf-8")


KINDS: tuple[tuple[Tamper, int], ...] = (
    (flipped_bit, 20),
    (changed_byte, 20),
    (appended_byte, 10),
    (truncated_file, 10),
    (deleted_file, 10),
    (swapped_files, 8),
    (link_for_file, 4),
    (stray_file, 12),
    (edited_line, 14),
    (removed_line, 8),
    (reordered_lines, 8),
    (duplicated_line, 8),
    (cut_tail, 8),
    (cut_inside_a_line, 6),
    (cut_to_the_older_seal, 2),
    (edited_line_chained_again, 4),
    (figure_in_html, 8),
    (figure_in_report_json, 8),
    (figure_in_figures, 8),
    (figure_in_manifest, 8),
    (item_log, 6),
    (item_log_and_manifest, 4),
    (recipe, 6),
)
