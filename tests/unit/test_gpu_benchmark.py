"""`bench.gpu` at toy size: its parts are there, its checks can fail and refuse timings, and it claims no GPU figure."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import gpu, gpu_race, gpu_throughput
from bench.gpu_floor import kind_of
from bench.gpu_variants import BASELINE, DEFAULT, MUON, PlainObjective, variants
from bench.gpu_world import RECIPE, Record, World, toy_scale
from pocketlm.model import loss as loss_module
from pocketlm.pipeline.recipe import recipe_folder
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.training.checkpoint import CheckpointFolder
from pocketlm.training.muon import Muon
from tests.token_folders import write_tokens

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers and of the compiler


@pytest.fixture(autouse=True)
def determinism_as_before() -> Any:
    before, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    yield
    torch.set_deterministic_debug_mode(before)
    torch.set_num_threads(threads)


def run(out: Path, *options: str) -> tuple[int, dict[str, Any]]:
    code = gpu.main(["--toy", "--out", str(out), *options])
    return code, json.loads(out.read_text())


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A result file in which all checks have passed."""
    out = tmp_path_factory.mktemp("checked") / "gpu.json"
    code, _ = run(out, "--parts", "checks")
    assert code == 0
    return out.read_text()


@pytest.mark.long
def test_every_part_is_measured_and_continued_and_none_is_of_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checked: str
) -> None:
    out, chosen = tmp_path / "gpu.json", (DEFAULT, BASELINE, "ours_bf16_stream")
    out.write_text(checked)
    code, first = run(out, "--variants", *chosen[:2])
    assert code == 0
    assert (first["toy"], first["device"]) == (True, "cpu")
    assert set(first["parts"]) == set(gpu.PARTS)
    assert all(entry["passed"] is not False for entry in first["parts"]["checks"].values())
    expected = {"step.fp32.muon", "step.bf16.compiled", "loss.kernel.z_loss", "repeat.strict", "resume.strict"}
    assert expected <= set(first["parts"]["checks"])
    assert first["parts"]["throughput"][BASELINE]["ratio"] == 1.0
    assert first["parts"]["throughput"][DEFAULT]["graphs"] == 1
    assert first["parts"]["throughput"][DEFAULT]["attention"]
    table = first["parts"]["floor"]["table"]
    assert [row["part"] for row in table["rows"]][:2] == ["body products", "head products"]
    assert all(row["measured"] is not None and row["predicted"] is None for row in table["rows"])
    assert first["parts"]["costs"]["checkpoints"]["saves"] >= 1
    assert first["parts"]["costs"]["validation"]["seconds"] > 0
    printed = capsys.readouterr().out
    assert "not a measurement of a GPU" in printed
    for text in (printed, json.dumps(first)):
        for claim in ("utilisation", "H200", "280,000", "required"):
            assert claim not in text

    _, second = run(out, "--parts", "throughput", "--variants", *chosen)
    rates = second["parts"]["throughput"]
    assert [rates[name]["slice"] for name in chosen] == [1, 2, 2]
    assert rates["ours_bf16_stream"]["ratio"] > 0
    assert len(second["slices"]) == 3


@pytest.mark.long
def test_all_variants_run_at_toy_size(tmp_path: Path) -> None:
    _, result = run(tmp_path / "gpu.json", "--parts", "checks", "throughput")
    for name in variants(toy_scale(), "cpu"):
        assert result["parts"]["throughput"][name].get("tokens_per_second", 0) > 0, result["parts"]["throughput"][name]


@pytest.mark.long
def test_a_wrong_kernel_fails_its_checks_and_its_variants_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = loss_module.plain_row_losses

    def slightly_wrong(*arguments: Any) -> tuple[torch.Tensor, ...]:
        loss_C, penalty_C, delta_CV = right(*arguments)
        return loss_C, penalty_C, delta_CV * 1.0001

    monkeypatch.setattr(loss_module, "plain_row_losses", slightly_wrong)
    code, result = run(tmp_path / "gpu.json", "--parts", "checks", "throughput", "--variants", DEFAULT, BASELINE)
    assert code == 1
    assert [result["parts"]["checks"][f"loss.{name}"]["passed"] for name in ("kernel", "head.fp32")] == [False, False]
    assert result["parts"]["checks"]["attention.flash"]["passed"] is True
    refused = result["parts"]["throughput"][DEFAULT]
    assert "loss." in refused["refused"]
    assert "tokens_per_second" not in refused
    assert result["parts"]["throughput"][BASELINE]["tokens_per_second"] > 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("forgetful", "reason"),
    [
        # What the optimizer keeps, and the whole checkpoint: beginning anew ends with equal bits.
        ((Muon, "tensors", lambda self: {}), "bits differ"),
        ((CheckpointFolder, "load_newest", lambda self, before=None: None), "2 before the stop and 4 after it"),
    ],
)
def test_a_resume_that_forgets_fails_its_check_and_the_strict_mode_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: str, forgetful: tuple[Any, ...], reason: str
) -> None:
    former = json.loads(checked)
    del former["parts"]["checks"]["resume.strict"]
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps(former))
    monkeypatch.setattr(*forgetful)
    code, result = run(out, "--parts", "checks", "throughput", "--variants", "ours_strict")
    assert code == 1
    assert result["parts"]["checks"]["resume.strict"]["passed"] is False
    refused = result["parts"]["throughput"]["ours_strict"]["refused"]
    assert "resume.strict" in refused
    assert reason in refused


@pytest.mark.long
def test_other_work_is_not_timed_as_if_it_were_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: str
) -> None:
    out = tmp_path / "gpu.json"
    out.write_text(checked)
    run(out, "--parts", "throughput", "--variants", DEFAULT)
    half = PlainObjective.loss

    def of_half(self: Any, model: Any, batch: Any) -> Any:
        total, figures = half(self, model, batch)
        return total / 2, figures

    monkeypatch.setattr(PlainObjective, "loss", of_half)
    _, result = run(out, "--parts", "throughput", "--variants", "ours_eager")
    assert "not the same work" in result["parts"]["throughput"]["ours_eager"]["refused"]


def test_nothing_is_timed_unchecked_and_missing_libraries_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_throughput, "find_spec", lambda name: None)
    _, result = run(tmp_path / "gpu.json", "--parts", "throughput", "--variants", DEFAULT, BASELINE)
    assert "was not made on this code" in result["parts"]["throughput"][DEFAULT]["refused"]
    assert "transformers is not installed" in result["parts"]["throughput"][BASELINE]["left_out"]


def test_a_file_of_another_device_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"toy": False, "device": "another", "parts": {}, "slices": []}))
    with pytest.raises(SystemExit, match="another toy"):
        run(out)
    assert json.loads(out.read_text())["device"] == "another"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_only_toy_size_runs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--toy"):
        gpu.main(["--out", str(tmp_path / "gpu.json")])


@pytest.mark.long
def test_the_race_goes_on_after_a_cut_and_compares_wall_clock(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def documents(count: int) -> list[tuple[str, list[int]]]:
        return [("books", [int(first) + at % 3 for at in range(60)]) for first in generator.integers(3, 90, count)]

    write_tokens(
        tmp_path / "run" / "artifacts" / "tokenize",
        {"train": documents(60), "heldout": documents(4), "heldout_selection": documents(4)},
    )
    options = ["--parts", "race", "--race", str(tmp_path / "run"), "--race-work", str(tmp_path / "work")]
    options += ["--race-tokens", str(12 * 32 * 30), "--race-rate", "0.003"]
    _, cut = run(tmp_path / "gpu.json", *options, "--max-seconds", "1")
    assert "the same command continues" in cut["parts"]["race"]["l20"]["left_out"]
    assert "left_out" in cut["parts"]["race"]["result"]
    _, whole = run(tmp_path / "gpu.json", *options)
    curves = {arm: whole["parts"]["race"][arm]["curve"] for arm in ("l20", "ours")}
    assert [tokens for tokens, _ in curves["l20"]] == [tokens for tokens, _ in curves["ours"]]
    assert curves["ours"][-1][1] < curves["l20"][-1][1] < curves["l20"][0][1]
    # The arm, the variant whose rate gives its time, and the recipe have one optimizer.
    arm = whole["parts"]["race"]["ours"]["settings"]
    variant = json.loads(json.dumps(dict(variants(toy_scale(), "cpu")[MUON].settings)))
    assert {name: arm[name] for name in variant} == variant
    stated = load_yaml(recipe_folder() / f"{RECIPE}.yaml")["pretrain"]
    common = stated.keys() & variant.keys()
    assert {"optimizer", "orthogonalisation", "normalise_rows", "cautious_weight_decay"} <= common
    assert {name: variant[name] for name in common} == {name: stated[name] for name in common}
    assert arm["learning_rate"] == 0.003
    assert "learning_rate" not in variant


def test_wall_clock_is_tokens_over_the_rates_of_each_set_up(tmp_path: Path) -> None:
    record = Record.open(tmp_path / "gpu.json", {"toy": True, "device": "cpu"}, {})
    world = World(toy_scale(), torch.device("cpu"), record, 0.0, tmp_path)
    record.put("race", "l20", {"curve": [[100, 5.0], [200, 4.0]]})
    record.put("race", "ours", {"curve": [[100, 3.9], [200, 3.0]]})
    record.put("throughput", BASELINE, {"tokens_per_second": 10})
    record.put("throughput", DEFAULT, {"tokens_per_second": 80})  # of AdamW, which our arm does not train with
    assert MUON in gpu_race.compare(world)["left_out"]
    record.put("throughput", MUON, {"tokens_per_second": 40})
    result = gpu_race.compare(world)
    assert result["wall_clock_ratio"] == (100 / 40) / (200 / 10)
    assert result["met"]
    record.put("race", "ours", {"curve": [[100, 4.9], [200, 4.1]]})
    assert "not_reached" in gpu_race.compare(world)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_7_64x128x64", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("triton_red_fused__scaled_dot_product_cudnn_attention_backward_mm_12", "elementwise"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "products"),
        ("_row_losses_kernel", "loss"),
        ("void at::native::multi_tensor_apply_kernel<..., FusedAdamMathFunctor<...>>", "optimizer"),
        ("Memcpy HtoD (Pageable -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, ...>", "elementwise"),
    ],
)
def test_kernels_are_told_apart_by_name(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind
