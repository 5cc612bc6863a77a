"""Plans against what is really allocated, published counts, and recipes that cannot fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pocketlm.errors import InputError
from pocketlm.evaluation import scoring
from pocketlm.generation import engine
from pocketlm.model import loss as head
from pocketlm.model.cache import KeyValueCache
from pocketlm.model.config import SHAPES, ModelSettings, preset
from pocketlm.model.formats.hugging_face_config import hugging_face_config
from pocketlm.pipeline.recipe import Recipe, load_recipe, parse_recipe
from pocketlm.pipeline.settings import Runtime
from pocketlm.planning import limits
from pocketlm.planning import plan as planning
from pocketlm.planning.benchmark import Throughput, measure
from pocketlm.planning.disk import StageDisk, disk_of, peak, training_disk
from pocketlm.planning.elsewhere import elsewhere
from pocketlm.planning.flops import matrix_parameters, training_flops_per_token
from pocketlm.planning.machine import Machine
from pocketlm.planning.memory import activation_bytes, cache_bytes_per_token, training_memory
from pocketlm.planning.peaks import peak_of
from pocketlm.planning.plan import plan, preflight
from pocketlm.planning.work import Work, works_of
from pocketlm.posttraining.sft.supervised import SupervisedObjective
from pocketlm.stages import registry
from pocketlm.training import checkpoint
from pocketlm.training.batches import Batch
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.settings import SpikePolicy, TailAverage, TrainingSettings
from tests.small_training import SHAPE, make_context, make_model, make_trainer

ROOMY = Machine("cpu", "test", 64 * 10**9, "of this test")


def test_operations_of_the_135m_model_are_those_counted_by_hand() -> None:
    settings = preset("135m")
    assert matrix_parameters(settings) == 134_479_872
    assert training_flops_per_token(settings, 2048) == pytest.approx(1.0193e9, rel=1e-4)


def test_numbers_of_other_rooms_are_theirs() -> None:
    assert limits.KEPT_CHECKPOINTS == checkpoint.KEPT
    assert limits.HEAD_CHUNK == head._CHUNK_ELEMENTS
    assert limits.EVALUATION_TOKENS == scoring.TOKENS_PER_PASS
    assert limits.EVALUATION_HEAD_ROWS == scoring.HEAD_ROWS
    assert (limits.EVALUATION_CACHE, limits.SHELF) == (engine.CACHE_BYTES, engine.SHELF)


def kept_for_backward(shape: ModelSettings, rows: int, masked: bool) -> int:
    """Bytes of everything that autograd keeps, weights and tables of the model left out."""
    model = make_model(shape)
    own = {item.untyped_storage().data_ptr() for item in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.randint(0, shape.vocabulary, (rows, shape.context))
    mask = torch.ones(rows, 1, shape.context, shape.context, dtype=torch.bool).tril() if masked else None
    positions = torch.arange(shape.context).repeat(rows, 1) if masked else None
    objective = SupervisedObjective() if masked else LanguageModelObjective()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        objective.loss(model, Batch(tokens, tokens.clone(), positions, mask))
    inputs = sum(item.nbytes for item in (mask, positions) if item is not None)  # held by the batch
    return sum(item.untyped_storage().nbytes() for item in kept.values()) + inputs


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", ["llama", "qwen3"])
@pytest.mark.parametrize(
    ("kv_heads", "context", "layers", "tied"), [(2, 16, 2, True), (4, 64, 3, False), (1, 128, 1, True)]
)
def test_activations_are_what_autograd_keeps(
    layout: Any, kv_heads: int, context: int, layers: int, tied: bool, masked: bool
) -> None:
    changes = {"layout": layout, "kv_heads": kv_heads, "context": context, "layers": layers, "tie_embeddings": tied}
    shape = SHAPE.model_copy(update=changes)
    expected = activation_bytes(shape, 4, context, "cpu", masked)
    assert kept_for_backward(shape, 4, masked) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "muon"},
        {"optimizer": "muon", "normalise_rows": True, "tail_average": TailAverage(start_fraction=0.0)},
    ],
)
def test_state_and_checkpoint_are_what_a_trainer_holds(tmp_path: Path, changes: dict[str, Any]) -> None:
    trainer = make_trainer(make_context(tmp_path), steps=2, warmup_steps=1, spikes=SpikePolicy(), **changes)
    trainer.run()
    trainer.update.gradients.of(trainer.batches.batch(0, trainer.model))
    parts = {
        "weights": list(trainer.model.parameters()),
        "gradients": [weight.grad for weight in trainer.model.parameters()],
        "optimizer": [tensor for tensor in trainer.update.optimizer.tensors().values() if tensor.ndim],
        "copies": [*trainer.update.meter._before, *trainer.update.state()["average"].values()],
    }
    memory = training_memory(SHAPE, trainer.settings, 4, SHAPE.context, "cpu")
    for name, tensors in parts.items():
        assert getattr(memory, name) == sum(tensor.nbytes for tensor in tensors if tensor is not None), name
    work = Work("pretrain", "pretraining", SHAPE, trainer.settings, 2, 4, SHAPE.context, 128)
    newest = trainer.checkpoints.load_newest()
    assert newest is not None
    written = [tensor for group in newest.tensors.values() for tensor in group.values() if tensor.ndim]
    # Those kept, and one under way.
    assert training_disk(work).checkpoints == (checkpoint.KEPT + 1) * sum(tensor.nbytes for tensor in written)


def test_the_cache_takes_the_bytes_that_are_stated() -> None:
    cache = KeyValueCache(SHAPE, slots=3, length=8)
    assert cache.keys.nbytes + cache.values.nbytes == 3 * 8 * cache_bytes_per_token(SHAPE)
    assert cache_bytes_per_token(preset("135m")) == 2 * 23_040  # bf16 in the reference sheet, fp32 here


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L20", 119.5),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA L2", None),
        ("NVIDIA L200", None),
        ("NVIDIA RTX 4090 Ti", 165.2),
        ("Some other card", None),
    ],
)
def test_peaks_are_known_by_whole_words(name: str, teraflops: float | None) -> None:
    found = peak_of(name)
    assert (found and found.teraflops) == teraflops


def test_speed_is_measured_with_real_steps() -> None:
    training = TrainingSettings(steps=1, batch_rows=2, learning_rate=1e-3, optimizer="muon")
    throughput = measure(SHAPE, training, Runtime(device="cpu"), seconds=0.05)
    assert (throughput.rows, throughput.length) == (2, SHAPE.context)
    assert throughput.tokens_per_second > 0 < throughput.update_seconds
    assert throughput.seconds(2000, 10) == pytest.approx(
        2000 / throughput.tokens_per_second + 10 * throughput.update_seconds
    )


BEFORE: dict[str, Any] = {
    "name": "small",
    "seed": 1,
    "sources": {"web": {"path": "nowhere"}},
    "problems": {},
    "curate": {"inputs": {"documents": "sources"}},
    "tokenizer": {"inputs": {"documents": "curate"}, "vocabulary": 300},
    "tokenize": {"inputs": {"documents": "curate", "tokenizer": "tokenizer"}},
    "mixture": {"inputs": {"tokens": ["tokenize"]}, "tokens": 50_000_000, "shares": {"web": 1.0}, "epoch_cap": 2},
}


def small_recipe(runtime: dict[str, Any] | None = None, **entries: Any) -> Recipe:
    raw = {**BEFORE, "runtime": {"device": "cpu", **(runtime or {})}, **entries}
    raw.setdefault("pretrain", {})
    for name, inputs in (("pretrain", {"tokens": "mixture"}), ("sft", {"model": "pretrain", "problems": "problems"})):
        if name in raw:
            raw[name] = {"inputs": inputs, **raw[name]}
    return parse_recipe(raw, registry(), "small.yaml")


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "machine_of", lambda runtime: ROOMY)
    speed = Throughput(1000.0, 0.01, 1, 16, None, "no energy counter can be read")
    monkeypatch.setattr(planning, "_measured", lambda recipe, work: speed)


@pytest.mark.usefixtures("roomy")
def test_every_training_stage_of_the_quickstart_is_planned(tmp_path: Path) -> None:
    text = "\n".join(plan(load_recipe("quickstart", registry()), tmp_path))
    for part in (
        "1,115,264 parameters",
        "1,843,200 in 900 steps of 8 x 256",
        "causal",
        "weights 4.5 MB",
        "the text itself",
    ):
        assert part in text
    for stage in ("pretrain", "sft", "rlvr", "continued_sft", "rejection_sampling", "evaluate"):
        assert f"\n{stage}: " in text
    assert "4,096 bytes of keys and values" in text
    assert "energy      not measurable here: no energy counter" in text
    assert "MFU" not in text  # a CPU has no peak in the table


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize(
    ("recipe", "facts"),
    [
        (
            "l20-edu-135m",
            (
                "10,001,252,352 in 18,928 steps of 258 x 2,048",
                "3,000,500,224 in 5,723 steps of 64 x 8,192",
                "134,515,008 parameters",
                "1,310,720,000 tokens",
                "8 sequences of 256 tokens x 46,080 bytes",
            ),
        ),
        ("pocket-135m", ("134,515,008 parameters", "6,000,476,160 tokens", "rate 0.003 to 0 (linear")),
    ],
)
def test_the_large_recipes_plan_with_their_published_figures(
    recipe: str, facts: tuple[str, ...], tmp_path: Path
) -> None:
    text = "\n".join(plan(load_recipe(recipe, registry()), tmp_path))
    for fact in facts:
        assert fact in text


@pytest.mark.usefixtures("roomy")
def test_a_gpu_that_is_not_here_is_planned_by_its_datasheet() -> None:
    # An hour of the reference's own rate: 38,541 tokens/s x 1.0193 GFLOP, 32.9 % of an L20's peak.
    line = elsewhere(38_541 * 1.0193e9 * 3600)
    assert "L20 59.8 min" in line
    assert "H200 7.2 min" in line


def test_mfu_is_stated_where_the_peak_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Machine("cuda", "NVIDIA H200", 130 * 10**9, "of this test")
    monkeypatch.setattr(planning, "machine_of", lambda runtime: card)
    speed = Throughput(330_000.0, 0.003, 32, 2048, 600.0, "measured: NVML's energy counters")
    monkeypatch.setattr(planning, "_measured", lambda recipe, work: speed)
    text = "\n".join(plan(load_recipe("pocket-135m", registry()), tmp_path))
    assert "MFU         34.0% of 989 TFLOP/s" in text
    assert "kWh at 600 W (measured: NVML's energy counters)" in text


def test_the_micro_batch_is_that_of_as_few_equal_parts_as_fit() -> None:
    [work] = works_of(small_recipe(pretrain={"model": "1m", "batch_rows": 64}))

    def machine(rows: int, spare: int) -> Machine:
        total = training_memory(work.model, work.settings, rows, work.length, "cpu").total
        return Machine("cpu", "test", total + planning.LIBRARIES["cpu"] + spare, "of this test")

    assert planning.fit(work, machine(64, 0), None).whole
    for fits, chosen in ((1, 1), (7, 7), (8, 8), (31, 22), (32, 32), (63, 32)):
        assert planning.fit(work, machine(fits, 0), None).rows == chosen
    assert planning.fit(work, machine(32, -1), None).rows == 22
    assert planning.fit(work, machine(63, 0), 63).rows == 63
    with pytest.raises(
        InputError, match=r"pretrain does not fit into memory: weights .* \+ gradients .* = .* more than"
    ):
        planning.fit(work, machine(1, -1), None)
    assert planning.fit(work, machine(64, 0), 4).rows == 4
    with pytest.raises(InputError, match=r"lower runtime\.micro_batch"):
        planning.fit(work, machine(4, -1), 4)


def test_examples_are_refused_only_if_they_surely_do_not_fit() -> None:
    work = works_of(small_recipe(pretrain={"model": {**shape_of("1m"), "context": 4096}}, sft={}))[-1]
    full = training_memory(work.model, work.settings, 1, 4096, "cpu", masked=True, keeps_best=True).total
    machine = Machine("cpu", "test", full + planning.LIBRARIES["cpu"] - 1, "of this test")
    chosen = planning.fit(work, machine, None)
    assert (chosen.rows, chosen.whole, chosen.certain) == (1, False, False)


def shape_of(name: str) -> dict[str, Any]:
    return SHAPES[name].model_dump(mode="json")


def test_a_run_that_cannot_fit_is_refused_with_the_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(pretrain={"model": "15m"})
    tiny = Machine("cpu", "test", 700_000_000, "90% of 0.8 GB available")
    monkeypatch.setattr(planning, "machine_of", lambda runtime: tiny)
    with pytest.raises(InputError, match=r"pretrain does not fit into memory: weights .*0\.8 GB available"):
        preflight(recipe, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("roomy")
def test_a_disk_that_is_too_small_is_refused_with_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(pretrain={"milestones": [20_000]}, sft={})
    stages = disk_of(recipe)
    needed, at = peak(stages)
    pretrain = next(stage for stage in stages if stage.name == "pretrain")
    parameters = 4 * works_of(recipe)[0].model.parameter_count()
    assert pretrain.artifact > 2 * parameters  # the model, and weights and optimizer of the milestone
    before = sum(stage.artifact for stage in stages[: stages.index(at)])
    assert needed == before + at.work + at.artifact
    assert stages[0] == StageDisk("mixture", 100_000_000)
    usage = shutil.disk_usage(tmp_path)._replace(free=needed + 10**6 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused = small_recipe({"disk_megabytes": 1}, pretrain={"milestones": [20_000]}, sft={})
    with pytest.raises(
        InputError, match=rf"during {at.name} the run holds at least .* of checkpoints .* = .* are free"
    ):
        preflight(refused, tmp_path)
    usage = usage._replace(free=needed + 10**6)
    assert preflight(refused, tmp_path) is None


def test_whole_batches_stay_whole_and_a_continued_run_keeps_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(pretrain={"model": "1m", "batch_rows": 64})
    [work] = works_of(recipe)

    def with_room_for(rows: int) -> None:
        total = training_memory(work.model, work.settings, rows, work.length, "cpu").total
        machine = Machine("cpu", "test", total + planning.LIBRARIES["cpu"], "of this test")
        monkeypatch.setattr(planning, "machine_of", lambda runtime: machine)

    with_room_for(64)
    assert preflight(recipe, tmp_path) is None
    with_room_for(5)
    assert preflight(recipe, tmp_path) == 5
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "small", "runtime": {"micro_batch": 3}}))
    assert preflight(recipe, tmp_path) == 3
    with_room_for(2)
    assert preflight(recipe, tmp_path) == 2
    assert preflight(recipe, tmp_path, only="tokenize") is None


def test_more_tokens_than_a_mixture_releases_are_refused() -> None:
    phases = [{"tokens": 30_000_000}, {"tokens": 25_000_000}]
    with pytest.raises(
        InputError, match=r"30,000,000 \+ 25,000,000 = 55,000,000 tokens of mixture, which releases 50,000,000"
    ):
        works_of(small_recipe(pretrain={"phases": phases}))
    assert works_of(small_recipe(pretrain={"phases": [{"tokens": 50_000_000}]}))
    assert works_of(small_recipe(pretrain={"inputs": {"tokens": "tokenize"}, "phases": phases}))


def test_a_branch_from_a_milestone_that_is_not_kept_is_refused() -> None:
    settings = {"stage": "pretrain", "inputs": {"tokens": "tokenize", "start": "pretrain"}, "start_at": 4000}
    with pytest.raises(InputError, match=r"branch\.start_at is 4,000, .*tokens\): 4,096"):
        works_of(small_recipe(pretrain={"milestones": [4000]}, branch=settings))
    assert works_of(small_recipe(pretrain={"milestones": [4000]}, branch=settings | {"start_at": 4096}))


def test_imported_models_are_planned_from_their_description(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(hugging_face_config(preset("135m"))))
    entries = {"start": {"stage": "import_model", "path": str(tmp_path)}}
    raw = {**BEFORE, **entries, "sft": {"inputs": {"model": "start", "problems": "problems"}}}
    [work] = works_of(parse_recipe(raw, registry(), "imported"))
    assert work.model == preset("135m")
    raw["sft"]["inputs"]["budget"] = "start"
    with pytest.raises(InputError, match="start is not trained: it spends no tokens that could be a budget"):
        works_of(parse_recipe(raw, registry(), "imported"))


@pytest.mark.parametrize("name", ["owner/name", ".", "mistyped"])
def test_a_model_that_is_not_there_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    entries = {"start": {"stage": "import_model", "path": str(tmp_path / name)}}
    raw = {**BEFORE, **entries, "sft": {"inputs": {"model": "start", "problems": "problems"}}}
    message = r"start\.path: there is no model at .*; give a folder .* or a \.gguf file\. .*hf download NAME"
    with pytest.raises(InputError, match=message):
        works_of(parse_recipe(raw, registry(), "imported"))


def test_a_given_tokenizer_says_its_vocabulary(tmp_path: Path) -> None:
    content = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 6, "content": "<x>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = {"inputs": {"documents": "curate"}, "path": str(tmp_path)}
    assert works_of(small_recipe(tokenizer=tokenizer))[0].model.vocabulary == 7
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.path: .* is no tokenizer\.json"):
        works_of(small_recipe(tokenizer=tokenizer))


def test_the_device_at_hand_has_memory() -> None:
    machine = planning.machine_of(Runtime(device="cpu"))
    assert machine.kind == "cpu"
    assert 10**8 < machine.memory < 10**14
