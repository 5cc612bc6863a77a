"""Behind `pocketlm compare A B ... [--tasks T,...] [--out FILE.json]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pocketlm.errors import CorruptionError, InputError
from pocketlm.evaluation.comparison.compared import compare_records
from pocketlm.evaluation.comparison.figures import as_json, blocks_of, comparison_blocks, shown_claims
from pocketlm.evaluation.comparison.record_sources import open_record, open_records
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

    Args:
        runs: the name that the page gives a run -> its folder.

    Raises:
        CorruptionError: an evaluation's files are not those of its manifest.
    """
    try:
        return comparison_blocks([replace(open_record(str(folder)), name=name) for name, folder in runs.items()])
    except CorruptionError:
        raise
    except InputError as error:
        return [paragraph(f"No comparison item by item: {error}.")]
