"""The mixture stage: what it refuses and how, held-out text kept apart, replay of other runs, equal bytes each time."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pocketlm.data.tokens.mixture_inputs import open_inputs
from pocketlm.data.tokens.shards import TokenShard, check_number_of_sources
from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.mixture import MixtureSettings, identity, mixture
from tests.token_folders import documents, held_out, read_documents, tokens_artifact

SHARES = {"web": 0.5, "books": 0.3, "old": 0.2}


def run(
    folder: Path, artifacts: list[Artifact], seed: int = 5, events: list[tuple[str, Any]] | None = None, **settings: Any
) -> Artifact:
    manifest = {"stage": "mixture", "fingerprint": "f" * 64, "inputs": {}, "settings": {}, "version": 1}

    def record(kind: str, body: Any) -> None:
        if events is not None:
            events.append((kind, dict(body)))

    context = Context(
        "mixture", seed, Runtime(threads=1), folder / "work",
        lambda kind: Draft(folder / "mixture", {"kind": kind, **manifest}), record, Progress(io.StringIO()),
        StopRequest(),
    )  # fmt: skip
    inputs = Inputs({"tokens": {artifact.stage: artifact for artifact in artifacts}})
    return mixture.function(MixtureSettings(**settings), inputs, context)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    lengths = np.random.default_rng(3).integers(5, 60, 400).tolist()
    train = [*documents("web", lengths, 1), *documents("books/a", lengths[:80], 2), *documents("books/b", [40] * 50, 3)]
    return tokens_artifact(tmp_path_factory.mktemp("new"), "new", {"train": train, **held_out(1)})


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    train = documents("wiki", [30] * 100, 4)
    return tokens_artifact(tmp_path_factory.mktemp("old"), "old", {"train": train, **held_out(2, "wiki")})


@pytest.fixture(scope="module")
def mixed(new: Artifact, old: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run(tmp_path_factory.mktemp("mixed"), [new, old], shares=SHARES, tokens=20_000)


def test_the_output_has_the_layout_of_tokens_and_the_shares_that_were_asked(mixed: Artifact) -> None:
    stream = read_documents(mixed.path)
    tokens = Counter[str]()
    for source, ids in stream:
        tokens[source.split("/")[0] if source.startswith("old") else source.split("/")[1]] += len(ids) + 1
    total = sum(tokens.values())
    assert 20_000 <= total < 20_000 + 3 * 61
    for name, share in SHARES.items():
        assert tokens[name] / total == pytest.approx(share, abs=0.005)
    shard = TokenShard.open(mixed.path)
    assert (len(shard.tokens), len(shard.offsets)) == (total, len(stream))
    assert shard.tokens.dtype == np.uint16
    assert set(mixed.read_json("tokens.json")["sources"]) == {"new/web", "new/books/a", "new/books/b", "old/wiki"}
    assert (mixed.path / "tokenizer.json").is_file()


def test_every_tenth_of_the_stream_holds_the_shares(mixed: Artifact) -> None:
    blocks = json.loads((mixed.path / "figures.json").read_text())["blocks"]
    rows = next(block for block in blocks if block["kind"] == "line_chart")["rows"]
    assert {row["tenth"] for row in rows} == set(range(1, 11))
    for row in rows:
        assert row["share"] == pytest.approx(SHARES[row["name"]], abs=0.03)


def test_figures_ledger_and_arrays_agree(mixed: Artifact) -> None:
    metrics, stream = mixed.metrics, read_documents(mixed.path)
    for source in mixed.read_json("tokens.json")["sources"]:
        own = [ids for name, ids in stream if name == source]
        row = mixed.read_json("mixture.json")["ledger"]["released"][source]
        assert metrics[f"released.{source}.tokens"] == row["tokens"] == sum(len(ids) + 1 for ids in own)
        assert row["bytes"] == sum(number % 5 + 1 for ids in own for number in ids)
    assert metrics["train.tokens"] == sum(len(ids) + 1 for _, ids in stream)
    assert metrics["redistributed.tokens"] == metrics["held_out_removed.documents"] == 0
    assert metrics["heldout.documents"] == 6


def test_equal_settings_give_equal_bytes_and_another_seed_another_order(
    new: Artifact, old: Artifact, mixed: Artifact, tmp_path: Path
) -> None:
    turned = dict(reversed(SHARES.items()))
    assert run(tmp_path / "again", [new, old], shares=turned, tokens=20_000).digest == mixed.digest
    other = run(tmp_path / "other", [new, old], seed=6, shares=SHARES, tokens=20_000)
    assert read_documents(other.path) != read_documents(mixed.path)


def test_a_mixture_can_be_mixed_again(mixed: Artifact, tmp_path: Path) -> None:
    again = run(tmp_path, [mixed], shares={"new/web": 0.5, "old/wiki": 0.5}, tokens=5_000)
    assert 5_000 <= again.metrics["train.tokens"] <= 5_200


def test_different_tokenizers_are_refused_by_name(new: Artifact, tmp_path: Path) -> None:
    splits = {"train": documents("x", [9] * 20, 1), **held_out(4)}
    foreign = tokens_artifact(tmp_path, "foreign", splits, mark="another tokenizer")
    with pytest.raises(InputError, match="new and foreign have different tokenizers"):
        run(tmp_path / "run", [new, foreign], shares={"web": 1.0}, tokens=100)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"wbe": 1.0}, r"no source or stage 'wbe'; did you mean web\?"),
        ({"new/bocks": 1.0}, r"did you mean new/books\?"),
        ({"books": 0.5, "books/a": 0.5}, "books/a and books both stand for the source books/a of new"),
        ({"new": 0.5, "web": 0.5}, "both stand for the source"),
    ],
)
def test_names_that_stand_for_nothing_or_twice_are_refused(
    new: Artifact, old: Artifact, tmp_path: Path, shares: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, [new, old], shares=shares, tokens=100)


def test_a_source_of_two_inputs_must_be_told_apart(new: Artifact, tmp_path: Path) -> None:
    other = tokens_artifact(tmp_path, "other", {"train": documents("web", [9] * 50, 9), **held_out(5)})
    with pytest.raises(InputError, match="'web' can stand for several things: write one of new/web, other/web"):
        run(tmp_path / "run", [new, other], shares={"web": 1.0}, tokens=100)
    made = run(tmp_path / "run", [new, other], shares={"new/web": 0.5, "other/web": 0.5}, tokens=100)
    assert made.metrics["train.tokens"] >= 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": {"web": 0.5, "books": 0.4}}, "the shares sum to 0.9, not to 1: web 0.5, books 0.4"),
        ({"shares": {"web": 1.0, "books": 0.0}}, "the share of books is 0.0"),
        ({"shares": {"web": 1.5, "books": -0.5}}, "the share of books is -0.5"),
        ({"shares": {}}, "the shares sum to 0"),
        ({"shares": {"web": 1.0}, "epoch_caps": {"wep": 2}}, r"not in shares; did you mean web\?"),
        ({"shares": {"web": 1.0}, "tokens": 0}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MixtureSettings(**{"tokens": 100, **settings})


def test_a_share_that_the_cap_cannot_fill_is_refused_with_the_arithmetic(old: Artifact, tmp_path: Path) -> None:
    message = r"old: share 1 needs 12,401 tokens, it has 3,100 x 4 epochs = 12,400"
    with pytest.raises(InputError, match=message):
        run(tmp_path, [old], shares={"old": 1.0}, tokens=12_401)
    with pytest.raises(InputError, match=r"all sources together give 12,400 under their epoch caps: old 3,100 x 4"):
        run(tmp_path, [old], shares={"old": 1.0}, tokens=12_401, shortfall="redistribute")


def test_a_cap_that_is_met_exactly_releases_every_document_so_often(old: Artifact, tmp_path: Path) -> None:
    made = run(tmp_path, [old], shares={"wiki": 1.0}, tokens=3_100 * 2, epoch_caps={"wiki": 2})
    counts = Counter(tuple(ids) for _, ids in read_documents(made.path))
    assert set(counts.values()) == {2}
    assert made.metrics["overshoot.tokens"] == 0


def test_a_shortfall_is_redistributed_loudly(new: Artifact, old: Artifact, tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    settings = {"shares": {"web": 0.4, "books": 0.2, "old": 0.4}, "tokens": 18_000, "epoch_caps": {"old": 1}}
    made = run(tmp_path, [new, old], events=events, shortfall="redistribute", **settings)
    assert [body["message"] for kind, body in events if kind == "warning"] == [
        "old cannot fill its share under its epoch cap: 7,200 tokens asked, 3,100 given (3,100 x 1); "
        "the rest went to the other shares"
    ]
    assert made.metrics["redistributed.tokens"] == 4_100
    given = {row["name"]: row["given"] for row in made.read_json("mixture.json")["components"]}
    assert given["old"] == 3_100
    assert given["web"] == pytest.approx(2 * given["books"], abs=2)
    assert sum(given.values()) == 18_000


def test_less_than_one_document_gives_one_document_and_says_by_how_much(old: Artifact, tmp_path: Path) -> None:
    made = run(tmp_path, [old], shares={"wiki": 1.0}, tokens=1)
    assert (made.metrics["train.documents"], made.metrics["overshoot.tokens"]) == (1, 30)
    assert made.read_json("tokens.json")["sources"] == ["wiki"]
    with pytest.raises(InputError, match=r"mixture\.tokens = 1 leaves no token for"):
        run(tmp_path / "two", [made, old], shares={"mixture": 0.4, "old": 0.6}, tokens=1)


def test_held_out_text_never_stands_in_training_text_of_any_input(new: Artifact, tmp_path: Path) -> None:
    leaked, kept = held_out(7)["heldout"], held_out(7)["heldout_selection"]
    new_heldout = held_out(1)["heldout"]
    splits = {
        "train": [*documents("x", [20] * 50, 1), new_heldout[1]],  # holds a document that `new` reports on
        "heldout": [*leaked, leaked[0], read_documents(new.path)[0]],  # the last stands in the training text of `new`
        "heldout_selection": [*kept, new_heldout[0]],
    }
    other = tokens_artifact(tmp_path, "other", splits)
    made = run(tmp_path / "run", [new, other], shares={"new/web": 1.0}, tokens=500)
    train = {tuple(ids) for artifact in (new, other) for _, ids in read_documents(artifact.path)}
    report = [tuple(ids) for _, ids in read_documents(made.path, "heldout")]
    selection = [tuple(ids) for _, ids in read_documents(made.path, "heldout_selection")]
    assert not train & {*report, *selection}
    assert len({*report, *selection}) == len(report) + len(selection)
    assert report == [tuple(ids) for _, ids in (new_heldout[0], new_heldout[2], *leaked)]
    removed = made.read_jsonl("held_out_removed.jsonl")
    assert [(row["split"], row["stage"], row["document"], row["reason"], row["equal_to"]) for row in removed] == [
        ("heldout", "new", 1, "in training text", "other"),
        ("heldout", "other", 3, "repeated in its split", "other"),
        ("heldout", "other", 4, "in training text", "new"),
        ("heldout_selection", "other", 2, "in heldout", "new"),
    ]
    assert made.metrics["held_out_removed.documents"] == 4


def test_no_held_out_text_left_is_an_error(new: Artifact, tmp_path: Path) -> None:
    heldout = held_out(1)
    other = tokens_artifact(tmp_path, "other", {"train": [*heldout["heldout"], *held_out(8)["heldout"]], **held_out(8)})
    with pytest.raises(InputError, match="no document of heldout is left"):
        run(tmp_path / "run", [new, other], shares={"new/web": 1.0}, tokens=500)


def test_equal_training_documents_of_two_inputs_are_said_loudly(new: Artifact, tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    other = tokens_artifact(tmp_path, "other", {"train": read_documents(new.path)[:7], **held_out(8)})
    made = run(tmp_path / "run", [new, other], events=events, shares={"new/web": 1.0}, tokens=500)
    assert made.metrics["repeated_across_inputs.documents"] == 7
    assert any("7 training documents of other are in new too" in body["message"] for _, body in events)


def test_tokens_of_another_run_are_replayed_by_content_not_by_place(
    new: Artifact, old: Artifact, mixed: Artifact, tmp_path: Path
) -> None:
    settings = {"shares": SHARES, "tokens": 20_000, "replay": {"old": str(old.path)}}
    made = run(tmp_path, [new], **settings)
    assert np.array_equal(np.load(made.path / "train.npy"), np.load(mixed.path / "train.npy"))
    twin = tokens_artifact(tmp_path, "elsewhere", {"train": documents("wiki", [30] * 100, 4), **held_out(2, "wiki")})
    elsewhere = MixtureSettings(**{**settings, "replay": {"old": str(twin.path)}})
    assert identity(elsewhere) == identity(MixtureSettings(**settings))
    assert elsewhere.identity() == MixtureSettings(**settings).identity()
    renamed = MixtureSettings(shares={"web": 1.0}, tokens=9, replay={"older": str(old.path)})
    assert identity(renamed) != identity(elsewhere)


def test_what_is_no_token_artifact_cannot_be_replayed(new: Artifact, mixed: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mixture\.replay\.old: .*nowhere is no artifact"):
        identity(MixtureSettings(shares={"web": 1.0}, tokens=9, replay={"old": str(tmp_path / "nowhere")}))
    draft = Draft(tmp_path / "text", {"kind": "documents", "stage": "curate", "fingerprint": "f" * 64, "inputs": {}})
    other = draft.commit({})
    with pytest.raises(InputError, match="holds 'documents', not 'tokens'"):
        identity(MixtureSettings(shares={"web": 1.0}, tokens=9, replay={"old": str(other.path)}))
    with pytest.raises(InputError, match="an input has this name too"):
        run(tmp_path, [new], shares={"web": 1.0}, tokens=9, replay={"new": str(mixed.path)})


def test_wide_token_ids_pass(tmp_path: Path) -> None:
    train = [("wide", [65_535, 65_536, 69_999]), ("wide", [3, 4])]
    splits = {"train": train, "heldout": [("wide", [65_540])], "heldout_selection": [("wide", [65_541])]}
    made = run(tmp_path, [tokens_artifact(tmp_path, "wide", splits, vocabulary=70_000)], shares={"wide": 1.0}, tokens=7)
    assert np.load(made.path / "train.npy").dtype == np.uint32
    assert sorted(read_documents(made.path)) == sorted(train)


def test_more_sources_than_sixteen_bits_are_refused() -> None:
    check_number_of_sources(65_536)
    with pytest.raises(InputError, match="the inputs hold 65,537 sources"):
        check_number_of_sources(65_537)


def test_arrays_that_disagree_with_their_counts_are_refused(old: Artifact, tmp_path: Path) -> None:
    splits = {"train": documents("wiki", [30] * 5, 4), **held_out(2, "wiki")}
    folder = tokens_artifact(tmp_path, "broken", splits).path
    summary = json.loads((folder / "tokens.json").read_text())
    summary["splits"]["train"]["by_source"]["wiki"]["tokens"] += 1
    (folder / "tokens.json").write_text(json.dumps(summary))
    with pytest.raises(CorruptionError, match=r"156 tokens of wiki in train, the arrays hold 5 and 155"):
        open_inputs({"broken": folder})
    np.save(folder / "train_sources.npy", np.array([0, 0, 0, 0, 1], np.uint16))
    with pytest.raises(CorruptionError, match=r"a document has the source 1, but tokens\.json lists 1"):
        open_inputs({"broken": folder})
    del summary["sources"]
    (folder / "tokens.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="made by an earlier version"):
        open_inputs({"broken": folder})


def test_a_tokenizer_that_drops_text_is_said_loudly(old: Artifact, tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    splits = {"train": documents("wiki", [30] * 5, 4), **held_out(2, "wiki")}
    folder = tokens_artifact(tmp_path, "lossy", splits).path
    summary = json.loads((folder / "tokens.json").read_text())
    stated = summary["splits"]["train"]["by_source"]["wiki"]["bytes"]
    summary["splits"]["train"]["by_source"]["wiki"]["bytes"] += 4
    (folder / "tokens.json").write_text(json.dumps(summary))
    lossy = Artifact.open(folder, verify=False)
    made = run(tmp_path / "run", [lossy], events=events, shares={"wiki": 1.0}, tokens=155)
    assert made.metrics["train.bytes"] == stated
    assert any(f"stand for {stated:,} bytes, its text had {stated + 4:,}" in body["message"] for _, body in events)
