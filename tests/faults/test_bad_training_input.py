"""Recipes whose training cannot be as it is written: refused before anything starts, with what, where, what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from pocketlm.cli import main
from pocketlm.errors import InputError
from pocketlm.model.config import ModelShape, RopeScaling
from pocketlm.pipeline.recipe import Recipe, load_recipe
from pocketlm.planning.plan import preflight
from pocketlm.stages import registry
from pocketlm.stages.wind_tunnel import WindTunnelSettings
from pocketlm.training.settings import SpikePolicy, TailAverage, TrainingSettings
from pocketlm.training.validation import Validation
from tests.small_training import make_context, make_trainer

SHAPE = "{width: 32, layers: 1, heads: 2, kv_heads: 2, head_dim: 16, ffn_width: 48, context: 32}"
RECIPE = f"""
name: two
runtime: {{threads: 1, device: cpu}}
sources: {{web: {{path: /nowhere}}, books: {{path: /nowhere}}}}
curate: {{inputs: {{documents: sources}}}}
tokenizer: {{inputs: {{documents: curate}}, vocabulary: 320}}
tokenize: {{inputs: {{documents: curate, tokenizer: tokenizer}}}}
tokenizer_b: {{stage: tokenizer, inputs: {{documents: curate}}, vocabulary: 330}}
tokenize_b: {{stage: tokenize, inputs: {{documents: curate, tokenizer: tokenizer_b}}}}
mix: {{stage: mixture, inputs: {{tokens: [tokenize]}}, tokens: 20000, shares: {{web: 0.5, books: 0.5}}}}
pretrain:
  inputs: {{tokens: [tokenize]}}
  model: {SHAPE}
  steps: 12
  batch_rows: 4
  warmup_steps: 4
  milestones: [512]
phased:
  stage: pretrain
  inputs: {{tokens: [tokenize, mix]}}
  model: {SHAPE}
  batch_rows: 4
  phases: [{{tokens: 1280, data: tokenize}}, {{tokens: 640, data: mix, shape: linear, final_fraction: 0.0}}]
more:
  stage: pretrain
  inputs: {{tokens: [tokenize], start: pretrain}}
  model: {SHAPE}
  steps: 6
  batch_rows: 4
  warmup_steps: 2
problems: {{}}
sft: {{inputs: {{model: more, problems: problems}}}}
"""
FIRST = "phased.phases=[{tokens: 1280, data: tokenize, "


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "two.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def loaded(file: Path, *overrides: str) -> Recipe:
    return load_recipe(file, registry(), overrides)


def test_the_recipe_itself_is_sound(file: Path) -> None:
    preflight(loaded(file), file.parent / "run")


CASES = [
    ("pretrain.learning_rate=0", "pretrain.learning_rate: input should be greater than 0, not 0"),
    ("pretrain.learning_rate=-1", "greater than 0, not -1"),
    ("pretrain.learning_rate=.nan", "a finite number, not nan"),
    ("pretrain.learning_rate=.inf", "a finite number, not inf"),
    ("pretrain.learning_rate=1e300", "learning_rate is 1e+300; rates that train lie below 1"),
    ("pretrain.model.heads=3", "3 query heads cannot share 2 key-value heads evenly; set kv_heads"),
    ("pretrain.model.head_dim=15", "set an even head_dim"),
    ("pretrain.model.context=0", "pretrain.model.context: input should be greater than 0"),
    ("pretrain.batch_rows=0", "pretrain.batch_rows: input should be greater than 0"),
    ("pretrain.warmup_steps=12", "warmup_steps is 12 but there are only 12 steps"),
    ("pretrain.decay_fraction=1.5", "less than or equal to 1, not 1.5"),
    ("pretrain.z_loss=-1", "greater than or equal to 0, not -1"),
    ("pretrain.checkpoint_every=0", "pretrain.checkpoint_every: input should be greater than 0, not 0"),
    ("pretrain.tail_average={start_fraction: 2.0}", "less than 1, not 2.0"),
    ("pretrain.spikes={snapshot_every: 5}", "spikes.snapshot_every is 5, but trouble is noticed up to"),
    ("pretrain.milestones=[1537]", "pretrain: milestones: 1,537 tokens lie behind the end of the run, 1,536 tokens"),
    ("pretrain.milestones=[512, 500]", "milestones: 500 tokens are the same step as 512 (steps of 128 tokens)"),
    ("pretrain.start_at=512", "pretrain.start_at names a milestone, but there is no input `start`"),
    ("pretrain.inputs.tokens=[tokenize, tokenize]", "pretrain.inputs.tokens names tokenize twice"),
    ("phased.inputs.tokens=[tokenize, mix, tokenize_b]", "tokenize and tokenize_b, which are made with two tokenizers"),
    (f"{FIRST}context: 64}}]", "phase 1: rows of 64 tokens; give a divisor of the 128 tokens of a step, of at most"),
    (f"{FIRST}context: 12}}]", "phase 1: rows of 12 tokens"),
    (f"{FIRST}warmup_steps: 10}}]", "phase 1: warmup_steps is 10, but it has only 10 steps"),
    (f"{FIRST}learning_rate: 0}}]", "phases.0.learning_rate: input should be greater than 0"),
    (f"{FIRST}shape: linear}}]", "the shape is linear, but final_fraction is 1, so that the rate stays; give"),
    (f"{FIRST}final_fraction: 0.1}}]", "final_fraction is 0.1, but the shape is constant, so that the rate stays"),
    ("phased.phases=[{tokens: 0, data: mix}]", "phases.0.tokens: input should be greater than 0"),
    ("phased.phases=[{tokens: 20001, data: mix}]", "reads 20,001 tokens of mix, which releases 20,000"),
    ("phased.phases=[{tokens: 128, data: web}]", "phase 1: data is 'web', but the inputs `tokens` are tokenize, mix"),
    ("more.start_at=511", "more.start_at is 511, but pretrain keeps these milestones"),
    ("more.start_at=512 more.optimizer=adamw", "optimizer is 'adamw' here and 'muon' there; set it as there"),
    ("more.start_at=512 more.normalise_rows=true", "normalise_rows is True here and False there"),
    ("more.model.layers=2", "more.model: another shape than pretrain, which it starts from: layers is 2 here and 1"),
    ("more.model.context=64", "more.model.context is 64, but pretrain, which it starts from, has seen 32 positions"),
    ("more.inputs.tokens=[tokenize_b]", "more reads tokenize_b and pretrain, which are made with two tokenizers"),
    ("sft.tail_average={}", "sft.tail_average blends the last weights, but this stage ends with those of its best"),
    ("mix.shares={web: 0.5}", "the shares sum to 0.5, not to 1"),
    ("mix.shares={web: 0.5, book: 0.5}", "mix.shares: there is no source or stage 'book'; did you mean books?"),
    ("mix.shares={tokenize/weeb: 1.0}", "mix.shares: there is no source or stage 'tokenize/weeb'"),
    ("mix.inputs.tokens=[tokenize, tokenize_b]", "mix reads tokenize and tokenize_b, which are made with two"),
    ("runtime.micro_batch=0", "runtime.micro_batch: input should be greater than 0, not 0"),
    ("runtime.micro_batch=-1", "runtime.micro_batch: input should be greater than 0, not -1"),
    ("runtime.threads=-1", "runtime.threads: input should be greater than or equal to 0"),
    ("runtime.threads=1000000", "runtime.threads: input should be less than or equal to 1024"),
    ("runtime.device=gpu", "runtime.device: input should be 'auto', 'cpu' or 'cuda', not 'gpu'"),
    ("runtime.max_seconds=0", "runtime.max_seconds: input should be greater than 0"),
]


@pytest.mark.parametrize(("overrides", "message"), CASES, ids=[case for case, _ in CASES])
def test_an_impossible_recipe_is_refused_before_anything_starts(
    file: Path, tmp_path: Path, overrides: str, message: str
) -> None:
    parts = re.split(r" (?=\w+\.\w+=)", overrides)
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        preflight(loaded(file, *parts), tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["plan"], ["run", "--out", "run"]])
def test_the_command_line_says_it_in_one_line_and_writes_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["pocketlm", *command, str(file), "--set", "mix.shares={web: 0.5, book: 0.5}"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert len(printed.err.strip().splitlines()) == 1
    assert "there is no source or stage 'book'; did you mean books?" in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["mix.shares={tokenize: 1.0}"],
        ["mix.shares={tokenize/web: 0.5, books/part: 0.5}"],
        ["more.model.context=64", "more.model.rope_theta=50000.0"],
        ["more.model.context=64", "more.model.rope_scaling={factor: 2.0, original_context: 32}"],
        ["pretrain.milestones=[1536]"],
        ["runtime.micro_batch=100"],
    ],
    ids=str,
)
def test_what_is_possible_is_not_refused(file: Path, tmp_path: Path, overrides: list[str]) -> None:
    preflight(loaded(file, *overrides), tmp_path / "run")


def test_two_given_tokenizers_may_be_the_same_and_are_left_to_the_files(file: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(RECIPE)
    content = '{"model": {"vocab": {"a": 0, "b": 319}}, "added_tokens": []}'
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    for name in ("tokenizer", "tokenizer_b"):
        del document[name]["vocabulary"]
        document[name]["path"] = str(tmp_path)
    document["more"]["inputs"]["tokens"] = ["tokenize_b"]
    given = tmp_path / "given.yaml"
    given.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    preflight(loaded(given), tmp_path / "run")


def test_more_ranks_than_rows_are_refused_before_anything_starts(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "8", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="pretrain: batch_rows is 4, but 8 ranks train together"):
        preflight(loaded(file), tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_before_anything_starts(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no CUDA device is found here; set runtime\.device to auto or cpu"):
        preflight(loaded(file, "runtime.device=cuda"), tmp_path / "run")


def test_a_trainer_refuses_an_average_that_it_would_not_end_with(tmp_path: Path) -> None:
    validation = Validation(5, lambda model: {"value": 1.0})
    with pytest.raises(InputError, match="pretrain: tail_average blends the last weights"):
        make_trainer(make_context(tmp_path), validation=validation, tail_average=TailAverage())


def test_snapshots_must_reach_behind_what_is_undone() -> None:
    policy = SpikePolicy(snapshot_every=20)
    arguments: dict[str, Any] = {"steps": 100, "batch_rows": 1, "learning_rate": 1e-3, "log_every": 5}
    TrainingSettings(**arguments, skips_allowed=15, spikes=policy)
    with pytest.raises(ValidationError, match="skips_allowed = 21 steps late"):
        TrainingSettings(**arguments, skips_allowed=16, spikes=policy)


def test_a_longer_context_takes_an_extension_of_what_was_seen() -> None:
    start = ModelShape(width=32, layers=1, heads=2, kv_heads=2, head_dim=16, ffn_width=48, context=32)
    longer = {"context": 64}
    start.model_copy(update=longer | {"rope_theta": 20_000.0}).require_continues(start, "it")
    start.model_copy(update=longer | {"rope_scaling": RopeScaling(factor=2, original_context=32)}).require_continues(
        start, "it"
    )
    with pytest.raises(InputError, match=r"has seen 32 positions; extend them by model\.rope_scaling"):
        start.model_copy(update=longer | {"rope_theta": 5_000.0}).require_continues(start, "it")


@pytest.mark.parametrize("settings", [{"learning_rates": [1e-3, 2e-3, 1e-3]}, {"proxies": ["1m", "1m"]}])
def test_a_sweep_names_everything_once(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="name it once"):
        WindTunnelSettings(**settings)
