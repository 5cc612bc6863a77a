"""Random tamperings with a small run: verify finds each without the seal, and forgeries that fit everything with it."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import forging, tamper_kinds, tampering
from pocketlm.pipeline.ledger import LEDGER, read_ledger
from tests import toy, whole_run

ABSENT = {
    tamper_kinds.figure_in_html,
    tamper_kinds.cut_to_the_older_seal,
    tamper_kinds.item_log,
    tamper_kinds.item_log_and_manifest,
}
"""What a toy run has nothing for: no page, no items; a second session would need the page as well."""
KINDS = [kind for kind, _ in tamper_kinds.KINDS if kind not in ABSENT]


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("toy") / "run"
    toy.run(run)
    return run


def found(run: Path, seal: str | None = None) -> str:
    return tampering.first_difference(run, seal, toy.derive, toy.registry())


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32))
def test_every_tampering_is_found_without_the_seal(toy_run: Path, kind: tamper_kinds.Tamper, seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run = tampering.copied(toy_run, Path(scratch))
        try:
            kind(run, random.Random(seed))
        except tamper_kinds.Cannot:
            return
        assert found(run), kind.__name__


def test_an_untouched_run_has_no_difference(toy_run: Path) -> None:
    assert found(toy_run) == found(toy_run, whole_run.seal_of(toy_run)) == ""


def test_a_ledger_cut_to_an_older_seal_is_found_by_the_report_or_by_the_newest_seal(
    toy_run: Path, tmp_path: Path
) -> None:
    run = tampering.copied(toy_run, tmp_path)
    older = read_ledger(run / LEDGER)
    toy.run(run, "words.count=6")
    newest = whole_run.seal_of(run)
    forging.write_chain(run, older)
    assert found(run)  # recipe and artifacts are those of the newer session
    honest = tampering.copied(toy_run, tmp_path / "again")
    assert found(honest) == ""
    assert "no line of the ledger has the seal" in found(honest, newest)
