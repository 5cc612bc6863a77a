"""The pretrain stage on a small corpus: a better model than chance, complete figures, equal bytes every time."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES, Tokenizer, train_tokenizer
from pocketlm.errors import CorruptionError, InputError, Interrupted
from pocketlm.model.storage import load_model
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.pretrain import PretrainSettings, pretrain
from tests.small_training import StopAfter
from tests.token_folders import join_documents

VOCABULARY = 300
SETTINGS = PretrainSettings(
    model={"width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 16, "ffn_width": 48, "context": 32},
    steps=40, batch_rows=4, warmup_steps=4, validate_every=20, validation_documents=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    import numpy as np

    folder = tmp_path_factory.mktemp("tokens")
    texts = [f"document {n}: the function number {n} returns the list of all {n} names in order.\n" for n in range(240)]
    draft = Draft(folder / "tokenize", {"kind": "tokens", "stage": "tokenize", "fingerprint": "f" * 64, "inputs": {}})
    train_tokenizer(texts, VOCABULARY).save(str(draft.path / "tokenizer.json"))
    for name in TOKENIZER_FILES[1:]:
        (draft.path / name).write_text("{}")
    tokenizer = Tokenizer.load(draft.path)
    splits = {"train": texts[:200], "heldout": texts[200:220], "heldout_selection": texts[220:]}
    counts = {}
    for name, part in splits.items():
        ids, offsets = join_documents(tokenizer.encode_batch(part), tokenizer.end_of_text, VOCABULARY)
        np.save(draft.path / f"{name}.npy", ids)
        np.save(draft.path / f"{name}_offsets.npy", offsets)
        np.save(draft.path / f"{name}_sources.npy", (np.arange(len(offsets)) >= 150).astype(np.uint16))
        counts[name] = {"tokens": len(ids), "documents": len(offsets), "bytes": sum(len(text) for text in part)}
    summary = {"vocabulary": VOCABULARY, "sources": ["first", "last"], **counts["train"], "splits": counts}
    draft.write_json("tokens.json", summary)
    return draft.commit({})


def run(
    tokens: Artifact | dict[str, Artifact],
    folder: Path,
    settings: PretrainSettings = SETTINGS,
    stop: StopRequest | None = None,
    start: Artifact | None = None,
) -> Artifact:
    manifest = {"stage": "pretrain", "fingerprint": "f" * 64, "inputs": {}, "settings": {}, "version": 1}
    context = Context(
        "pretrain", 5, Runtime(threads=1, device="cpu"), folder / "work",
        lambda kind: Draft(folder / "pretrain", {"kind": kind, **manifest}), lambda kind, body: None,
        Progress(io.StringIO()), stop or StopRequest(),
    )  # fmt: skip
    (folder / "work").mkdir(parents=True, exist_ok=True)
    listed = {"tokenize": tokens} if isinstance(tokens, Artifact) else tokens
    return pretrain.function(settings, Inputs({"tokens": listed, **({"start": start} if start else {})}), context)


@pytest.fixture(scope="module")
def artifact(tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run(tokens, tmp_path_factory.mktemp("run"))


def test_it_learns_and_states_its_figures(artifact: Artifact) -> None:
    metrics: Any = artifact.metrics
    model = metrics["heldout.bits_per_byte.model"]
    assert model["value"] < 5
    assert model["low"] <= model["value"] <= model["high"]
    assert model["n"] == 20
    for name in ("trigram", "six_gram"):
        gain = metrics[f"heldout.bits_per_byte_below.{name}"]["value"]
        baseline = metrics[f"heldout.bits_per_byte.{name}"]["value"]
        assert gain == pytest.approx(baseline - model["value"])
    assert metrics["parameters"] == load_model(artifact.path).settings.parameter_count()
    assert (metrics["steps"], metrics["tokens"], metrics["updates_skipped"]) == (40, 40 * 4 * 32, 0)
    # Windows of an epoch and a half: every byte but a remainder shorter than a window and its target.
    assert 0 < metrics["training_bytes"] <= 200 * 80


def test_the_folder_holds_model_tokenizer_and_log(artifact: Artifact) -> None:
    assert {"config.json", "model.safetensors", "log.jsonl", "validation.jsonl", *TOKENIZER_FILES} <= set(
        artifact.manifest["files"]
    )
    rows = artifact.read_jsonl("log.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [row["step"] for row in artifact.read_jsonl("validation.jsonl")] == [20, 40]
    blocks = json.loads((artifact.path / "figures.json").read_text())["blocks"]
    assert [block["kind"] for block in blocks] == ["table", *["line_chart"] * 4, "table"]


def test_consumed_tokens_are_stated_by_source(tokens: Artifact, artifact: Artifact) -> None:
    consumed = {name: artifact.metrics[f"consumed.{name}.tokens"] for name in ("first", "last")}
    assert sum(consumed.values()) == artifact.metrics["tokens"]
    assert consumed["first"] / artifact.metrics["tokens"] == pytest.approx(0.75, abs=0.1)
    rows = json.loads((artifact.path / "figures.json").read_text())["blocks"][-1]["rows"]
    assert {row["source"]: row["tokens consumed"] for row in rows} == consumed


def test_it_makes_the_same_bytes_again_also_after_an_interruption(
    tokens: Artifact, artifact: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run(tokens, tmp_path, stop=StopAfter(17))
    assert run(tokens, tmp_path).digest == artifact.digest


def test_too_little_text_says_how_much_a_step_reads(tokens: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"too little text: training has .* tokens, one step of 4000 rows"):
        run(tokens, tmp_path, SETTINGS.model_copy(update={"batch_rows": 4000}))


STEP = 4 * 32  # tokens
STABLE = {"tokens": 24 * STEP, "warmup_steps": 4}
DECAY = {"tokens": 16 * STEP, "shape": "linear", "final_fraction": 0.0}


def with_phases(*phases: dict[str, Any], **settings: Any) -> PretrainSettings:
    own = {name: getattr(SETTINGS, name) for name in ("model", "batch_rows", "validate_every", "validation_documents")}
    return PretrainSettings(**{**own, "phases": phases, **settings})


@pytest.fixture(scope="module")
def trunk(tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Stable phase and decay in one run, with milestones in the stable part."""
    settings = with_phases(STABLE, DECAY, milestones=(10 * STEP, 24 * STEP))
    return run(tokens, tmp_path_factory.mktemp("trunk"), settings)


def test_warm_up_stable_decay_as_phases_is_the_schedule_of_that_name(tokens: Artifact, trunk: Artifact) -> None:
    assert SETTINGS.decay_fraction == 0.4
    rates = [row["learning_rate"] for row in trunk.read_jsonl("log.jsonl")]
    assert rates == pytest.approx([SETTINGS.learning_rate * share for share in (1.0, 1.0, 11 / 16, 1 / 16)])


def test_a_branch_from_a_stable_milestone_is_the_run_itself(tokens: Artifact, trunk: Artifact, tmp_path: Path) -> None:
    """The decay as a run of its own: same optimizer state, same rows, so the same weights to the last bit."""
    branch = run(tokens, tmp_path, with_phases({**DECAY, "learning_rate": 1e-2}, start_at=24 * STEP), start=trunk)
    assert branch.file("model.safetensors").read_bytes() == trunk.file("model.safetensors").read_bytes()


def test_two_anneals_from_one_milestone_differ_in_what_they_read(
    tokens: Artifact, trunk: Artifact, artifact: Artifact, tmp_path: Path
) -> None:
    short = with_phases({**DECAY, "tokens": 4 * STEP, "learning_rate": 1e-2}, start_at=10 * STEP, validate_every=4)
    first = run(tokens, tmp_path / "first", short, start=trunk)
    last = run(
        tokens, tmp_path / "last", with_phases({**DECAY, "learning_rate": 1e-2}, start_at=10 * STEP), start=trunk
    )
    assert (first.metrics["steps"], last.metrics["steps"]) == (4, 16)
    assert first.metrics["heldout.bits_per_byte.model"] != last.metrics["heldout.bits_per_byte.model"]


def test_continued_pretraining_warms_up_again_and_reads_on(
    tokens: Artifact, artifact: Artifact, tmp_path: Path
) -> None:
    settings = with_phases(
        {"tokens": 20 * STEP, "warmup_steps": 3, "learning_rate": 5e-3, "shape": "linear", "final_fraction": 0.0}
    )
    more = run(tokens, tmp_path, settings, start=artifact)
    rows = more.read_jsonl("log.jsonl")
    assert rows[0]["loss"] < artifact.read_jsonl("log.jsonl")[0]["loss"]
    [read] = json.loads((more.path / "read.json").read_text())
    assert read == {"tokens": tokens.digest, "context": 32, "windows": (40 + 20) * 4}


def test_text_that_is_new_is_read_from_its_beginning(tokens: Artifact, artifact: Artifact, tmp_path: Path) -> None:
    other = Artifact(tokens.path, {**tokens.manifest, "digest": "another"})
    more = run(other, tmp_path, with_phases({"tokens": 5 * STEP}, validate_every=5), start=artifact)
    assert json.loads((more.path / "read.json").read_text())[0]["windows"] == 5 * 4


def test_a_stream_that_a_run_between_did_not_touch_is_read_on_where_it_was_left(
    tokens: Artifact, artifact: Artifact, tmp_path: Path
) -> None:
    other = Artifact(tokens.path, {**tokens.manifest, "digest": "another"})
    between = run(other, tmp_path / "between", with_phases({"tokens": 5 * STEP}, validate_every=5), start=artifact)
    last = run(tokens, tmp_path / "last", with_phases({"tokens": 3 * STEP}, validate_every=3), start=between)
    read = {row["tokens"]: row["windows"] for row in json.loads((last.path / "read.json").read_text())}
    assert read == {tokens.digest: (40 + 3) * 4, "another": 5 * 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_at": 11 * STEP}, r"kept nothing at 1,408 tokens; its milestones: 1,280, 3,072"),
        ({"model": {**SETTINGS.model.model_dump(), "layers": 2}}, r"another shape .*layers is 2 here and 1 there"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    tokens: Artifact, trunk: Artifact, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(tokens, tmp_path, with_phases(STABLE, **settings), start=trunk)


def test_a_model_goes_on_in_the_shape_that_it_has(tokens: Artifact, trunk: Artifact, tmp_path: Path) -> None:
    named = run(tokens, tmp_path / "named", with_phases(STABLE), start=trunk)
    unnamed = run(tokens, tmp_path / "unnamed", with_phases(STABLE, model=None), start=trunk)
    assert unnamed.manifest["files"]["model.safetensors"] == named.manifest["files"]["model.safetensors"]
    with pytest.raises(InputError, match="the shape of the input `start`, but there is none"):
        run(tokens, tmp_path / "alone", with_phases(STABLE, model=None))


def test_a_milestone_without_a_start_is_refused(tokens: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no input `start`"):
        run(tokens, tmp_path, with_phases(STABLE, start_at=STEP))


def test_a_start_with_another_tokenizer_is_refused(tokens: Artifact, trunk: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(trunk.path, folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="have different tokenizers"):
        run(tokens, tmp_path, with_phases(STABLE), start=Artifact(folder, trunk.manifest))


def test_a_token_outside_of_the_vocabulary_is_refused(tokens: Artifact, tmp_path: Path) -> None:
    import numpy as np

    folder = tmp_path / "broken"
    shutil.copytree(tokens.path, folder)
    stream = np.load(folder / "train.npy")
    stream[77] = VOCABULARY
    np.save(folder / "train.npy", stream)
    with pytest.raises(CorruptionError, match=f"holds the token {VOCABULARY}, its tokenizer has {VOCABULARY}"):
        run(Artifact(folder, tokens.manifest), tmp_path / "run")


def test_rows_of_whole_documents_that_do_not_see_each_other(tokens: Artifact, tmp_path: Path) -> None:
    own = {"packing": "best_fit", "document_mask": True, "z_loss": 1e-4, "probe_every": 20}
    artifact = run(tokens, tmp_path, SETTINGS.model_copy(update=own))
    consumed = [artifact.metrics[f"consumed.{name}.tokens"] for name in ("first", "last")]
    assert sum(consumed) == artifact.metrics["tokens"]
    assert 0.8 * 40 * 4 * 32 < artifact.metrics["tokens"] <= 40 * 4 * 32
    rows = artifact.read_jsonl("log.jsonl")
    assert all(0 < row["z_loss"] < 0.02 for row in rows)
    assert [row["step"] for row in rows if "attention_logit" in row] == [10, 30]
    assert {"gradient_norm.00", "output_logit", "output_logit_rms"} <= set(rows[0])


def test_a_milestone_that_was_damaged_on_the_disk_is_not_handed_on(tokens: Artifact, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"milestones": (8 * STEP,), "checkpoint_every": 4})
    with pytest.raises(Interrupted):
        run(tokens, tmp_path, settings, stop=StopAfter(17))
    [weights] = (tmp_path / "work" / "milestones").rglob("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 4
    weights.write_bytes(content)
    with pytest.raises(
        CorruptionError, match=r"milestones/.*model\.safetensors holds other bytes.*; remove .*work and run again"
    ):
        run(tokens, tmp_path, settings)
    assert not (tmp_path / "pretrain").exists()
