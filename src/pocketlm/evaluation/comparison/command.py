"""Behind `pocketlm compare A B ... [--tasks T,...] [--out FILE.json]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pocketlm.errors import CorruptionError, InputError
from pocketlm.evaluation.comparison.compared import compare_records
from pocketlm.evaluation.comparison.figures import as_json, blocks_of, comparison_blocks, shown_claims
from pocketlm.evaluation.comparison.record_sources import final_records, open_records
from pocketlm.evaluation.comparison.records import Record
from pocketlm.evaluation.comparison.text import claim_lines, lines_of
from pocketlm.pipeline.figures import Block, paragraph
from pocketlm.pipeline.storage import write_json_atomic


def compare(sources: Sequence[str], tasks: Sequence[str], out: Path | None) -> list[str]:
    """Compare what the sources name; returns printable lines and writes all figures to `out`, if given.

    Raises:
        InputError: see `open_records` and `compare_records`; or `out` cannot be written.
    """
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise InputError(f"--out {out}: name a file in a folder that exists")
    found = compare_records(open_records(sources), tasks)
    if out is not None:
        write_json_atomic(out, as_json(found))
    *blocks, _, _ = blocks_of(found)  # the claims are printed in sentences
    return [*lines_of(blocks), "", *claim_lines(shown_claims(found))]


def run_blocks(runs: Mapping[str, Path]) -> list[Block]:
    """The final models of several runs, compared item by item, for a page of several runs; or why they cannot be.

    Where a run scored its final model in several evaluations, those of one name are compared with each other.

    Args:
        runs: the name that the page gives a run -> its folder.

    Raises:
        CorruptionError: an evaluation's files are not those of its manifest.
    """
    try:
        found = {name: final_records(folder) for name, folder in runs.items()}
    except CorruptionError:
        raise
    except InputError as error:
        return [paragraph(f"No comparison item by item: {error}.")]
    if all(len(records) == 1 for records in found.values()):
        return _compared({name: record for name, records in found.items() for record in records.values()})
    blocks: list[Block] = []
    for evaluation in dict.fromkeys(name for records in found.values() for name in records):
        own = {name: records[evaluation] for name, records in found.items() if evaluation in records}
        lacking = [name for name in found if name not in own]
        blocks.append(paragraph(f"Evaluation {evaluation}{_without(lacking)}:"))
        more = _compared(own) if len(own) > 1 else [paragraph(f"Only {next(iter(own))} has it: nothing to compare.")]
        blocks += [
            block | {"title": f"{evaluation}: {block['title']}"} if block.get("title") else block for block in more
        ]
    return blocks


def _without(lacking: Sequence[str]) -> str:
    return f" (not in {', '.join(lacking)})" if lacking else ""


def _compared(records: Mapping[str, Record]) -> list[Block]:
    """Records under the names that the page gives them, or why they cannot be compared."""
    try:
        return comparison_blocks([replace(record, name=name) for name, record in records.items()])
    except InputError as error:
        return [paragraph(f"No comparison item by item: {error}.")]
