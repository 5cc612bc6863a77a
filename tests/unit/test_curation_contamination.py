"""Benchmarks in the curate stage: documents that hold an item are rejected or cut, items are listed, files identify."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pocketlm.data import engine
from pocketlm.data.curation.curation_files import files_identity
from pocketlm.data.curation.writing import SPLITS
from pocketlm.data.documents import DOCUMENTS, TableWriter
from pocketlm.errors import InputError
from pocketlm.evaluation.benchmarks.tasks import content_hash
from pocketlm.evaluation.clean import Flags
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.storage import canonical_json, sha256_text
from pocketlm.stages.curate import CurateSettings
from tests.data_pipeline import prose
from tests.unit.test_curation_units import rows, run, write_documents

QUESTION = (
    "A farmer in Glenrowan packs forty melons into crates that hold exactly five melons each before the market opens"
)
ITEMS = [
    {"question": f"{QUESTION}. How many crates does she fill?", "answer": "She fills 40/5=<<40/5=8>>8 crates.\n#### 8"},
    {
        "question": "Why do the tall ferns beside Lake Moreau close their leaves at dusk in autumn?",
        "answer": "#### 1",
    },
]


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    path = tmp_path / "gsm.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    return path


def settings(path: Path, **more: Any) -> CurateSettings:
    contamination = {"benchmarks": {"gsm8k": {"path": str(path)}}, **more}
    return CurateSettings(minimum_bytes=20_000, held_out={"minimum_documents": 3}, contamination=contamination)


def documents(folder: Path) -> Artifact:
    texts = [prose(seed, 12) for seed in range(40)]
    middle = texts[7].index("\n\n")
    texts[7] = f"{texts[7][:middle]}\n\n{QUESTION.upper()} - how many?{texts[7][middle:]}"
    return write_documents(folder, texts)


def kept_texts(artifact: Artifact) -> dict[str, str]:
    names = ("train", "heldout", "heldout_selection")
    return {row["id"]: row["text"] for name in names for row in rows(artifact, f"{name}.parquet")}


def test_a_document_with_an_item_is_rejected_and_the_item_listed(benchmark: Path, tmp_path: Path) -> None:
    made = run(tmp_path / "run", documents(tmp_path / "sources"), settings(benchmark))
    (reject,) = [row for row in rows(made, "rejects.parquet") if row["gate"] == "contamination_gsm8k"]
    assert reject["id"] == "b/7"
    assert "FARMER IN GLENROWAN" in reject["excerpt"]
    assert "b/7" not in kept_texts(made)
    (item,) = made.read_jsonl("contaminated_items.jsonl")
    assert (item["kind"], item["id"], item["document"], item["documents"]) == ("gsm8k", "1", "b/7", 1)
    assert made.metrics["contamination.items_found"] == 1
    assert made.metrics["planted.items.gsm8k.verbatim.found"] == 2


def test_cutting_takes_the_window_and_leaves_the_rest(benchmark: Path, tmp_path: Path) -> None:
    made = run(tmp_path / "run", documents(tmp_path / "sources"), settings(benchmark, action="cut"))
    text = kept_texts(made)["b/7"]
    assert "GLENROWAN" not in text
    assert text.startswith(prose(7, 12)[:200])
    assert text.endswith(prose(7, 12)[-200:])
    assert made.read_jsonl("contaminated_items.jsonl")[0]["document"] == "b/7"
    assert made.metrics["rejected"] == 0


def test_the_content_of_a_benchmark_is_the_identity_and_its_place_is_not(benchmark: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "gsm.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(benchmark.read_bytes())
    before = files_identity(settings(benchmark))
    assert files_identity(settings(moved)) == before
    assert settings(moved).identity() == settings(benchmark).identity()
    moved.write_bytes(benchmark.read_bytes().replace(b"Moreau", b"Moreas"))
    assert files_identity(settings(moved)) != before


def test_an_unknown_benchmark_without_a_path_is_named(tmp_path: Path) -> None:
    nameless = CurateSettings(contamination={"benchmarks": {"mine": {}}})
    with pytest.raises(InputError, match=r"curate.contamination.benchmarks.mine: no path"):
        files_identity(nameless)
    with pytest.raises(InputError, match=r"curate.contamination.benchmarks.gsm8k.path = .*nowhere"):
        files_identity(settings(tmp_path / "nowhere.jsonl"))


def test_pairs_of_blimp_are_found_word_for_word_and_marked(tmp_path: Path) -> None:
    """Short sentences of common words: a document that holds one is told from one with a word exchanged."""
    pairs = [
        {"UID": "adjunct_island", "pairID": "0", "sentence_good": "Who should she hug before they leave?"},
        {"UID": "adjunct_island", "pairID": "1", "sentence_good": "Who should he see before they leave?"},
        {"UID": "adjunct_island", "pairID": "2", "sentence_good": "What had we found while talking about it?"},
    ]
    pairs = [{**pair, "sentence_bad": pair["sentence_good"][:-1] + " again?"} for pair in pairs]
    path = tmp_path / "blimp.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    texts = [prose(seed, 12) for seed in range(40)]
    texts[7] += "\n\n**WHO** should she hug, before they leave?"
    texts[9] += "\n\nWhat had he found while talking about it?"
    asked = CurateSettings(
        minimum_bytes=20_000,
        held_out={"minimum_documents": 3},
        contamination={"benchmarks": {"blimp": {"path": str(path)}}},
    )
    made = run(tmp_path / "run", write_documents(tmp_path / "sources", texts), asked)
    (item,) = made.read_jsonl("contaminated_items.jsonl")
    assert (item["kind"], item["id"], item["document"]) == ("blimp", "1", "b/7")
    assert "b/9" in kept_texts(made)
    flags = Flags(frozenset({"blimp"}), frozenset({(item["kind"], item["question"])}))
    assert flags.of("blimp_adjunct_island", pairs) == [True, False, False]
    assert content_hash("blimp_adjunct_island", pairs[0]) == sha256_text(canonical_json(pairs[0])), "splits stay"


def test_a_dry_run_lists_spans_and_cuts_nothing(tmp_path: Path) -> None:
    texts = [prose(seed, 12) for seed in range(40)]
    span = " ".join(prose(900, 6).split())
    for at in (5, 25):
        texts[at] = f"{texts[at]} {span}"
    made = run(
        tmp_path / "run",
        write_documents(tmp_path / "sources", texts),
        CurateSettings(minimum_bytes=20_000, held_out={"minimum_documents": 3}, segments={"dry_run": True}),
    )
    assert kept_texts(made)["b/25"] == texts[25]
    assert made.metrics["cut.spans"] == 1
    (shown,) = [b for b in made.read_json("figures.json")["blocks"] if b.get("title") == "Repeated spans"]
    assert "b/25" in shown["items"][0]["label"]
    assert shown["items"][0]["text"].split()[:5] == span.split()[:5]


def test_rows_of_instruction_data_are_rejected_whole_or_kept_whole(benchmark: Path, tmp_path: Path) -> None:
    """Their record would not know of a cut."""
    folder = tmp_path / "sources"
    folder.mkdir()
    span = " ".join(prose(900, 6).split())
    texts = [f"{prose(seed, 10)} {span}" if seed in (3, 9) else prose(seed, 12) for seed in range(40)]
    texts[20] = f"{texts[20]} {QUESTION}, how many?"
    with TableWriter(folder / "documents.parquet", DOCUMENTS) as writer:
        for at, text in enumerate(texts):
            record = json.dumps({"response": text})
            writer.write((f"s/{at}", "s", text, "MIT", "made", None, record), len(text))
    made = run(
        tmp_path / "run",
        Artifact(folder, {"files": {"documents.parquet": {}}}),
        settings(benchmark, action="cut"),
    )
    kept = {row["id"]: row for name in SPLITS for row in rows(made, f"{name}.parquet")}
    assert set(kept) == {f"s/{at}" for at in range(40) if at != 20}
    assert all(json.loads(row["record"])["response"] == row["text"] == texts[int(key[2:])] for key, row in kept.items())
    assert [row["gate"] for row in rows(made, "rejects.parquet")] == ["contamination_gsm8k"]


def test_a_task_that_a_lost_worker_had_finished_may_run_again(
    benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
        return [function(task) for task in [task for task in tasks for _ in range(2)]][1::2]

    span = " ".join(prose(900, 6).split())
    texts = [f"{prose(seed, 12)} {span}" if seed in (3, 7, 21) else prose(seed, 12) for seed in range(40)]
    for at in (7, 11):
        texts[at] = f"{QUESTION}, how many? {texts[at]}"
    made = write_documents(tmp_path / "sources", texts)
    once = run(tmp_path / "once", made, settings(benchmark, action="cut"))
    assert once.metrics["cut.spans"] == 2
    monkeypatch.setattr(engine, "_run", twice)
    assert run(tmp_path / "twice", made, settings(benchmark, action="cut")).digest == once.digest


def test_an_item_that_stands_twice_does_not_survive_cutting(benchmark: Path, tmp_path: Path) -> None:
    texts = [prose(seed, 12) for seed in range(40)]
    texts[7] = f"{QUESTION}, how many? {texts[7]} And again: {QUESTION}, how many?"
    made = run(tmp_path / "run", write_documents(tmp_path / "sources", texts), settings(benchmark, action="cut"))
    assert not any("Glenrowan" in text for text in kept_texts(made).values())


def test_gates_for_a_source_that_is_not_there_are_refused(tmp_path: Path) -> None:
    made = documents(tmp_path / "sources")
    base = {"minimum_bytes": 20_000, "held_out": {"minimum_documents": 3}}
    with pytest.raises(InputError, match=r"curate.source_gates.wiki: there is no such source. There are a, b"):
        run(tmp_path / "run", made, CurateSettings(**base, source_gates={"wiki": {"minimum_words": 5}}))
    for wrong in ({"a/part": {"minimum_words": 5}}, {"a": {"minimum_wrods": 5}}, {"a": {"minimum_letter_share": 2}}):
        with pytest.raises(ValueError, match=r"source_gates|minimum_"):
            CurateSettings(source_gates=wrong)
    run(tmp_path / "two", made, CurateSettings(**base, source_gates={"a": {"minimum_words": 5}}))


def test_duplicates_that_no_document_stands_for_in_the_end_are_counted(benchmark: Path, tmp_path: Path) -> None:
    texts = [prose(seed, 12) for seed in range(40)]
    texts[21] = texts[20]  # source a, that of document 20, goes before b
    texts[20] = f"{texts[20]} {QUESTION}, how many?"
    shared = prose(900, 10)
    texts[4] = f"{texts[4]}\n\n{shared}"
    texts[30] = texts[31] = f"{shared}\n\n{prose(901, 4)}"  # 31 gives way to 30, that to 4, which is kept
    texts[35] = f"{prose(902, 10)}\n\n{prose(902, 10)}"  # gives way to no other
    made = run(tmp_path / "run", write_documents(tmp_path / "sources", texts), settings(benchmark))
    rejected = {row["id"]: (row["gate"], row["removed_by"]) for row in rows(made, "rejects.parquet")}
    assert rejected == {
        "a/20": ("contamination_gsm8k", ""),
        "b/21": ("near_duplicate", "a/20"),
        "a/30": ("repeated_segments", "a/4"),
        "b/31": ("exact_duplicate", "a/30"),
        "b/35": ("repeated_segments", ""),
    }
    assert made.metrics["duplicates.kept_copy_rejected_later"] == 1
