"""The reference library of W3C PROV reads our PROV-JSON, and writes it back with nothing lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import synthetic_run

from pocketlm.reporting.provenance import prov_json
from pocketlm.reporting.reading import read_run

prov = pytest.importorskip("prov.model")

pytestmark = pytest.mark.filterwarnings("default")  # the peer's own


def test_the_library_reads_every_record_and_writes_the_same_document(tmp_path: Path) -> None:
    seal = synthetic_run.build(tmp_path)
    ours = prov_json(read_run(tmp_path), seal)
    document = prov.ProvDocument.deserialize(content=json.dumps(ours), format="json")
    assert len(list(document.get_records())) == sum(len(records) for kind, records in ours.items() if kind != "prefix")
    again = prov.ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
    assert again == document
    assert "run:stage/pretrain" in {str(one.identifier) for one in document.get_records(prov.ProvActivity)}
