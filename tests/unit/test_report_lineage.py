"""PROV-JSON of a run: well-formed, complete, and every relation leads to something."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import synthetic_run

from pocketlm.pipeline import figures
from pocketlm.pipeline.ledger import Ledger
from pocketlm.pipeline.storage import sha256_text
from pocketlm.reporting.provenance import prov_json
from pocketlm.reporting.reading import read_run

ENDS = {
    "used": {"prov:activity": "activity", "prov:entity": "entity"},
    "wasGeneratedBy": {"prov:entity": "entity", "prov:activity": "activity"},
    "wasDerivedFrom": {"prov:generatedEntity": "entity", "prov:usedEntity": "entity", "prov:activity": "activity"},
    "wasAssociatedWith": {"prov:activity": "activity", "prov:agent": "agent", "prov:plan": "entity"},
}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("lineage")
    seal = synthetic_run.build(folder, {"<b> probe": [figures.paragraph("x")]})
    return json.loads(json.dumps(prov_json(read_run(folder), seal)))


def test_every_relation_joins_elements_that_are_there(document: dict[str, Any]) -> None:
    assert set(document) == {"prefix", "entity", "activity", "agent", *ENDS}
    for kind, ends in ENDS.items():
        for record in document[kind].values():
            assert {name for name in record if name != "prov:time"} <= set(ends)
            for name, target in ends.items():
                if name in record:
                    assert record[name] in document[target], (kind, record)
    names = [name for kind in ("entity", "activity", "agent") for name in document[kind]]
    assert len(names) == len(set(names))
    assert {name.partition(":")[0] for name in names} <= set(document["prefix"])
    assert not [name for name in names if re.search(r"[\s<>\"{}|\\^`]", name)]


def test_it_says_what_was_made_from_what_by_whom_and_when(document: dict[str, Any]) -> None:
    stages = [*synthetic_run.INPUTS, "%3Cb%3E%20probe"]
    assert list(document["activity"]) == [f"run:stage/{name}" for name in stages]
    made = {record["prov:entity"]: record["prov:activity"] for record in document["wasGeneratedBy"].values()}
    assert made == {f"run:artifact/{name}": f"run:stage/{name}" for name in stages}
    derived = [(r["prov:generatedEntity"], r["prov:usedEntity"]) for r in document["wasDerivedFrom"].values()]
    assert {used for entity, used in derived if entity == "run:artifact/interpolate"} == {
        f"run:artifact/{name}" for name in ("pretrain", "sft", "problems", "curate")
    }
    read = {f"texts:{sha256_text(str(number))}" for number in range(3)}
    assert {used for entity, used in derived if entity == "run:artifact/sources"} == read
    assert document["entity"][f"texts:{sha256_text('0')}"]["prov:label"] == "part 0.jsonl"
    for activity in document["activity"].values():
        times = activity["prov:startTime"], activity["prov:endTime"]
        assert all(MOMENT.fullmatch(time) for time in times)
        assert times[0] <= times[1]
        assert len(activity["pocketlm:hash"]) == 64
    assert [agent["prov:type"]["$"] for agent in document["agent"].values()] == ["prov:SoftwareAgent"]
    assert len(document["wasAssociatedWith"]) == len(stages)


def test_a_stage_made_by_a_later_process_is_associated_with_its_starter(tmp_path: Path) -> None:
    synthetic_run.build(tmp_path, sealed=False)
    ledger = Ledger(tmp_path)
    ledger.append("run_started", {"user": "ada", "environment": {"versions": {"pocketlm": "9"}}, "commit": "c"})
    run = read_run(tmp_path)
    line = next(line for line in run.events("stage_committed") if line["body"]["stage"] == "rlvr")
    ledger.append("stage_committed", dict(line["body"]))
    document = prov_json(read_run(tmp_path), None)
    agents = {r["prov:activity"]: set() for r in document["wasAssociatedWith"].values()}
    for record in document["wasAssociatedWith"].values():
        agents[record["prov:activity"]].add(record["prov:agent"])
    assert agents["run:stage/rlvr"] == {"run:person/ada", "run:software/pocketlm-9"}
    assert agents["run:stage/sft"] == {"run:software/pocketlm-unknown"}
    assert "pocketlm:seal" not in document["entity"]["run:ledger"]


def test_two_files_of_equal_bytes_are_one_entity_with_both_names(tmp_path: Path) -> None:
    rows = [{"source": "mine", "file": name, "sha256": "a" * 64} for name in ("one", "two")]
    block = figures.table("Files that were read", list(rows[0]), rows)
    seal = synthetic_run.build(tmp_path, {"sources": [block]})
    entity = prov_json(read_run(tmp_path), seal)["entity"][f"file:{'a' * 64}"]
    assert entity["prov:label"] == ["one", "two"]


def test_each_hash_is_called_what_it_is(tmp_path: Path) -> None:
    """Of a distribution's documents no file has the hash, and git's hash is no sha256."""
    rows = [
        {"source": "docs", "file": "numpy", "sha256": "a" * 64},
        {"source": "web", "file": "hf://datasets/a/b@c/small.jsonl", "sha256": f"git:{'b' * 40}"},
        {"source": "web", "file": "hf://datasets/a/b@c/large.jsonl", "sha256": "c" * 64},
    ]
    block = figures.table("Files that were read", list(rows[0]), rows)
    seal = synthetic_run.build(tmp_path, {"sources": [block]})
    document = prov_json(read_run(tmp_path), seal)
    assert {name: document["prefix"][name] for name in ("file", "git", "texts")} == {
        "file": "urn:sha256:",
        "git": "swh:1:cnt:",
        "texts": "urn:pocketlm:texts:",
    }
    said = {
        name: (entity["prov:type"]["$"], {key for key in entity if key.startswith("pocketlm:")})
        for name, entity in document["entity"].items()
        if not name.startswith("run:")
    }
    expected = {
        f"texts:{'a' * 64}": ("pocketlm:distribution", {"pocketlm:sha256OfNamesAndTexts"}),
        f"git:{'b' * 40}": ("pocketlm:file", {"pocketlm:gitHash"}),
        f"file:{'c' * 64}": ("pocketlm:file", {"pocketlm:sha256"}),
    }
    assert {name: said.get(name) for name in expected} == expected
    assert document["entity"][f"git:{'b' * 40}"]["pocketlm:gitHash"] == "b" * 40
