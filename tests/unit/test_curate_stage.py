"""The data stages as a pipeline: accounting, planted faults of every kind, determinism, errors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pocketlm.data.documents import DOCUMENTS
from pocketlm.data.tokens.shards import TokenShard
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from tests.data_pipeline import corpus, prose, run, write_jsonl

BASE = corpus(90)
SHARED = prose(500, 5).split("\n\n")[0]
EDITED = " ".join("edited" if at == 40 else word for at, word in enumerate(BASE[3].split()))
TEXTS = [
    *BASE,
    BASE[0],
    EDITED,
    "Too short.",
    "All rights reserved. " + prose(600),
    f"{prose(601)}\n\n{SHARED}\n\n{prose(602)}",
    f"{prose(603)}\n\n{SHARED}\n\n{prose(604)}",
    f"{SHARED}\n\n{prose(605, 4)}",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("data")
    return run(folder, write_jsonl(folder / "texts.jsonl", TEXTS))


def rows(artifact: Artifact, name: str) -> list[dict[str, object]]:
    return pq.read_table(artifact.file(name)).to_pylist()


def test_every_step_accounts_for_every_document(made: dict[str, Artifact]) -> None:
    funnel = made["curate"].read_json("funnel.json")
    assert funnel[0]["input"] == len(TEXTS)
    for step, after in pairwise(funnel):
        assert step["input"] == step["kept"] + step["rejected"]
        assert after["input"] == step["kept"] - step["held_out"]
    kept = [
        row["id"]
        for name in ("train", "heldout", "heldout_selection")
        for row in rows(made["curate"], f"{name}.parquet")
    ]
    rejected = [row["id"] for row in rows(made["curate"], "rejects.parquet")]
    assert sorted([*kept, *rejected]) == sorted(f"mine/texts.jsonl:{number}" for number in range(1, len(TEXTS) + 1))
    assert (
        funnel[-1]["kept"] == made["curate"].metrics["train.documents"] == made["tokenize"].metrics["train.documents"]
    )


def test_every_step_accounts_for_every_byte(made: dict[str, Artifact]) -> None:
    funnel = made["curate"].read_json("funnel.json")
    for step, after in pairwise(funnel):
        assert after["input_bytes"] == step["next_bytes"]
    parts = [f"{part}_bytes" for part in ("rejected", "cut", "held_out", "next")]
    assert all(step["input_bytes"] == sum(step[part] for part in parts) for step in funnel)
    steps, metrics = {step["step"]: step for step in funnel}, made["curate"].metrics
    size = [len(text.encode()) for text in TEXTS]
    assert steps["clean"]["input_bytes"] == sum(size)
    rejected = {"gates": size[92] + size[93], "exact duplicates": size[90], "near-duplicates": size[91]}
    rejected |= {"repeated segments": size[96], "gates again": 0}
    assert {name: steps[name]["rejected_bytes"] for name in rejected} == rejected
    assert steps["gates again"]["cut_bytes"] == len(f"{SHARED}\n\n".encode())
    held_out = metrics["heldout.bytes"] + metrics["heldout_selection.bytes"]
    assert (steps["held-out split"]["held_out_bytes"], funnel[-1]["next_bytes"]) == (held_out, metrics["train.bytes"])


def test_rejects_say_who_why_and_for_whom(made: dict[str, Artifact]) -> None:
    rejects = {str(row["id"]).rpartition(":")[2]: row for row in rows(made["curate"], "rejects.parquet")}
    assert (rejects["91"]["gate"], rejects["91"]["removed_by"]) == ("exact_duplicate", "mine/texts.jsonl:1")
    assert (rejects["92"]["gate"], rejects["92"]["removed_by"]) == ("near_duplicate", "mine/texts.jsonl:4")
    assert 0.75 <= float(str(rejects["92"]["value"])) < 1
    assert (rejects["93"]["gate"], rejects["93"]["value"], rejects["93"]["threshold"]) == ("too_short", 10, 200)
    assert rejects["94"]["gate"] == "boilerplate"
    assert (rejects["97"]["gate"], rejects["97"]["removed_by"]) == ("repeated_segments", "mine/texts.jsonl:95")
    assert all(row["reason"] and row["excerpt"] for row in rejects.values())
    by_gate = {
        name.removeprefix("rejected."): count for name, count in made["curate"].metrics.items() if "rejected." in name
    }
    assert sum(by_gate.values()) == len(rejects)


def test_a_repeated_paragraph_stays_in_its_first_document_only(made: dict[str, Artifact]) -> None:
    kept = [
        row for name in ("train", "heldout", "heldout_selection") for row in rows(made["curate"], f"{name}.parquet")
    ]
    assert [row["id"] for row in kept if SHARED in str(row["text"])] == ["mine/texts.jsonl:95"]


def test_splits_share_no_document_and_all_have_the_columns(made: dict[str, Artifact]) -> None:
    tables = [
        pq.read_table(made["curate"].file(f"{name}.parquet")) for name in ("train", "heldout", "heldout_selection")
    ]
    assert all(table.schema.names == DOCUMENTS.names for table in tables)
    ids = [value for table in tables for value in table["id"].to_pylist()]
    assert len(set(ids)) == len(ids)
    assert min(len(table) for table in tables) >= 3


def test_planted_duplicates_are_counted_in_the_report(made: dict[str, Artifact]) -> None:
    metrics = made["curate"].metrics
    assert metrics["planted.duplicates.90.removed"] == metrics["planted.duplicates.90.planted"] > 0
    assert metrics["planted.duplicates.50.removed"] == 0
    assert metrics["planted.items.held_out.verbatim.found"] == metrics["planted.items.held_out.verbatim.planted"] > 0
    titles = [block.get("title") for block in made["curate"].read_json("figures.json")["blocks"]]
    assert {
        "Data funnel: documents",
        "Data funnel: bytes of text",
        "Rejected documents by gate",
        "Planted near-duplicates",
        "Planted evaluation items",
    } <= set(titles)


def test_tokens_decode_to_the_documents(made: dict[str, Artifact]) -> None:
    tokenizer = Tokenizer.load(made["tokenize"].path)
    for split in ("train", "heldout", "heldout_selection"):
        shard = TokenShard.open(made["tokenize"].path, split)
        texts = [str(row["text"]) for row in rows(made["curate"], f"{split}.parquet")]
        assert [tokenizer.decode(shard.document(index)) for index in range(len(texts))] == texts
        assert all(shard.document(index)[-1] == tokenizer.end_of_text for index in range(len(texts)))
        assert shard.text_bytes == sum(len(text.encode()) for text in texts)
        assert (shard.tokens == tokenizer.end_of_text).sum() == len(texts)


def test_two_runs_have_equal_digests(made: dict[str, Artifact], tmp_path: Path) -> None:
    again = run(tmp_path, write_jsonl(tmp_path / "elsewhere" / "texts.jsonl", TEXTS))
    assert {name: artifact.digest for name, artifact in again.items()} == {
        name: artifact.digest for name, artifact in made.items()
    }


def test_twenty_small_files_give_a_message_about_how_much_is_needed(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(corpus(20)):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    with pytest.raises(InputError, match=r"too little text: 20 documents with .* MB .* 64 are needed") as caught:
        run(tmp_path, tmp_path / "texts", "curate.held_out.minimum_documents=16", stages=("sources", "curate"))
    assert caught.value.exit_code == 2
    too_small = (
        r"too little text: 0\.\d\d MB .* at least 0\.30 MB are needed\. The sources are too small: they hold 0\.\d\d"
    )
    with pytest.raises(InputError, match=too_small):
        run(tmp_path, tmp_path / "texts", "curate.minimum_bytes=300000", stages=("sources", "curate"))
    most = r"The step 'gates' took most of 0\.\d\d MB \(0\.\d\d MB; 20 documents rejected\)\. .*loosen that step"
    with pytest.raises(InputError, match=most):
        run(tmp_path, tmp_path / "texts", "curate.gates.minimum_words=100000", stages=("sources", "curate"))


def test_a_source_without_any_document_names_what_was_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x"}\n{"body": "y"}\nnot json\n')
    with pytest.raises(
        InputError, match=r"sources.mine holds no document \(rejected rows: missing_column 2, not_json 1\)"
    ):
        run(tmp_path, path, stages=("sources",))


def test_rejected_rows_are_counted_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{broken\n{"text": "caf\xe9"}\n')
    artifact = run(tmp_path, path, stages=("sources",))["sources"]
    assert (artifact.metrics["documents"], artifact.metrics["rejected"]) == (1, 2)
    assert [(row["id"], row["gate"]) for row in rows(artifact, "rejects.parquet")] == [
        ("mine/a.jsonl:2", "not_json"),
        ("mine/a.jsonl:3", "invalid_unicode"),
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sources.mine.licens=MIT", "sources.mine.licens: unknown setting"),
        ("sources.mine=5", "sources"),
        ("sources.a/b={path: x}", "a/b"),
        ("curate.gates.minimum_letter_share=2", "minimum_letter_share"),
        ("tokenizer.vocabulary=100", "vocabulary"),
    ],
)
def test_bad_settings(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, tmp_path, override)
