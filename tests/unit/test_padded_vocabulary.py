"""Models whose embedding has more rows than their tokenizer has tokens: the rows are kept, and never drawn or learned.

The models here would draw little else: what they say is compared with transformers, which is told to suppress them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.evaluation.models.loading import load
from pocketlm.generation.engine import Engine, Request
from pocketlm.generation.text import ChatSession
from pocketlm.model.storage import load_config
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.distillation.cache import TeacherCache
from pocketlm.posttraining.distillation.objectives import TeacherObjective
from pocketlm.posttraining.examples import asked_prompts, solved_examples
from pocketlm.posttraining.folder import open_model
from pocketlm.posttraining.packing import example_tree, pack
from pocketlm.posttraining.preferences.batches import Judged, PreferenceBatches, Response, references
from pocketlm.posttraining.preferences.losses import PairObjective
from pocketlm.posttraining.rlvr.policy_gradient import PolicyGradientObjective
from pocketlm.posttraining.rollouts.batches import RolloutBatches
from pocketlm.posttraining.rollouts.curriculum import Draws
from pocketlm.posttraining.rollouts.sampler import Sampler
from pocketlm.posttraining.settings import PolicyGradientSettings, PreferenceLossSettings, RolloutSettings
from pocketlm.problems.rewards import RewardSettings, Scored, Scorer
from pocketlm.stages.export import ExportSettings, export
from pocketlm.stages.import_model import ImportModelSettings, import_model
from pocketlm.stages.interpolate import InterpolateSettings, interpolate
from pocketlm.training.batches import Batch
from pocketlm.training.start import starting_point
from tests.gguf_files import theirs, write_gguf
from tests.posttraining_world import (
    VOCABULARY,
    World,
    documents_artifact,
    model_artifact,
    problems_artifact,
    rows,
    small_model,
    small_tokenizer,
)

PADDED = 320
SHAPES = [("llama", True), ("llama", False), ("qwen3", True), ("qwen3", False)]
CPU = torch.device("cpu")


def padded_model(layout: str, tied: bool = True) -> Any:
    """A model of transformers whose rows beyond the tokenizer have large logits, of either sign."""
    model = theirs(
        layout,
        vocab_size=PADDED, hidden_size=32, intermediate_size=64, head_dim=16, max_position_embeddings=96,
        tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.no_grad():
        model.lm_head.weight[VOCABULARY:] *= 30
    return model


def imported(folder: Path, layout: str, tied: bool = True) -> tuple[Artifact, Any]:
    """The artifact of such a model, and the model as transformers has it."""
    model = padded_model(layout, tied)
    model.save_pretrained(folder / "theirs")
    (folder / "theirs" / "tokenizer.json").write_text(json.dumps(small_tokenizer().definition()), encoding="utf-8")
    return run_import(folder, path=str(folder / "theirs")), model


def run_import(folder: Path, **settings: Any) -> Artifact:
    return import_model.function(ImportModelSettings(**settings), Inputs({}), World(folder, "import_model").context)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return imported(tmp_path_factory.mktemp("padded"), "qwen3")[0]


@pytest.mark.parametrize(("layout", "tied"), SHAPES)
def test_it_is_imported_generates_and_is_exported_as_it_was(tmp_path: Path, layout: str, tied: bool) -> None:
    made, model = imported(tmp_path, layout, tied)
    assert (made.metrics["vocabulary"], made.metrics["tokens"]) == (PADDED, VOCABULARY)
    assert "44 rows more than the tokenizer has tokens" in json.dumps(made.read_json("figures.json"))
    ours, tokenizer = open_model(made, CPU)
    tokens_BT = torch.randint(VOCABULARY, (2, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens_BT), model(tokens_BT).logits, atol=1e-4, rtol=0)

    prompt = tokenizer.encode("number 3 and")
    options: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :]
    assert (plain >= VOCABULARY).any(), "transformers draws rows that no token has"
    padding = list(range(VOCABULARY, PADDED))
    expected = model.generate(torch.tensor([prompt]), suppress_tokens=padding, **options)[0, len(prompt) :]
    [[greedy]] = Engine(ours).generate([Request(prompt, 24)])
    assert greedy.tokens == expected.tolist()

    surroundings = World(tmp_path / "exported", "export")
    folder = export.function(ExportSettings(), Inputs({"model": made}), surroundings.context)
    assert folder.metrics["same_greedy_text"] == "yes"
    assert json.loads(folder.file("config.json").read_text())["vocab_size"] == PADDED
    again = run_import(tmp_path / "again", path=str(folder.path))
    assert again.file("model.safetensors").read_bytes() == made.file("model.safetensors").read_bytes()
    assert again.metrics["tokens"] == VOCABULARY


@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.05}, {"repetition_penalty": 1.3}, {"temperature": 30.0}],
)
def test_whatever_is_asked_padding_is_not_drawn(artifact: Artifact, options: dict[str, Any]) -> None:
    """Probabilities are those of the tokens alone: those of the model whose head was cut to them."""
    model, tokenizer = open_model(artifact, CPU)
    prompt = tokenizer.encode("number")
    order = [Request(prompt, 12, samples=40, seed=5, **{"temperature": 1.0, **options})]
    [found] = Engine(model).generate(order)
    cut = Transformer(model.settings.model_copy(update={"vocabulary": VOCABULARY, "tokens": None}))
    weights = model.state_dict()
    cut.load_state_dict({**weights, "embedding.weight": weights["embedding.weight"][:VOCABULARY]})
    [expected] = Engine(cut).generate(order)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
    with pytest.raises(InputError, match="outside the vocabulary of 276"):
        Engine(model).generate([Request([VOCABULARY], 4)])


def test_reinforcement_learning_is_on_the_policy_that_was_sampled(artifact: Artifact, tmp_path: Path) -> None:
    model, tokenizer = open_model(artifact, CPU)

    class Coin(Scorer):
        def score(self, row: Any, completion: str, progress: float = 1.0) -> Scored:
            return Scored(float(len(completion) % 2), False)

    sampler = Sampler(tokenizer, Coin(RewardSettings()), RolloutSettings(samples=8, max_tokens=6))
    prompts = asked_prompts(tokenizer, rows(range(0, 4), range(0, 4), answers=False))
    settings = PolicyGradientSettings(updates_per_batch=2, kl_coefficient=0.1)
    draws = Draws(prompts, 1, 0)
    batch = RolloutBatches(sampler, draws, settings, 0, tmp_path, redraws=20, reference=model).batch(0, model)
    assert int(batch.tokens_BT.max()) < VOCABULARY
    loss, figures = PolicyGradientObjective(settings, 8, 6).loss(model, batch)
    assert float(figures["engine_distance"]) < 1e-4, "engine and trainer speak of the same distribution"
    assert float(figures["clip_share"]) == 0
    assert abs(float(figures["kl"])) < 1e-6
    loss.backward()  # type: ignore[no-untyped-call]


def test_preferences_start_at_their_reference(artifact: Artifact) -> None:
    model, _ = open_model(artifact, CPU)
    items = [Judged("a", [4, 5], (Response([6, 7], True), Response([8], False)))]
    batch = PreferenceBatches(items, references(model, items, 24, lambda done: None), 1, 24, seed=0).batch(0)
    loss, figures = PairObjective(PreferenceLossSettings(), 1).loss(model, batch)
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-5)
    assert float(figures["reward.chosen"]) == pytest.approx(0, abs=1e-5)


def test_a_padded_teacher_teaches_a_student_that_is_not(artifact: Artifact, tmp_path: Path) -> None:
    teacher, tokenizer = open_model(artifact, CPU)
    examples = solved_examples(tokenizer, rows(range(0, 3), range(0, 3)), "rows")
    cache = TeacherCache(tmp_path, teacher, examples, k=8, maximum_megabytes=10)
    cache.fill(lambda block: None)
    learned = [place for place, mark in enumerate(examples[0].trained[1:]) if mark]
    with torch.no_grad():
        logits_TV = teacher(torch.tensor([examples[0].tokens[:-1]]))[0, :, :VOCABULARY]
    values_NK, ids_NK = logits_TV.log_softmax(-1)[learned].topk(8)
    ids, values = cache.of(0)
    assert ids.tolist() == ids_NK.tolist()
    torch.testing.assert_close(torch.tensor(values).float(), values_NK, atol=5e-3, rtol=0)
    packed = pack([example_tree(one.tokens, one.trained) for one in examples], 96)
    batch = Batch(packed.tokens_BT, packed.targets_BT, packed.positions_BT, packed.mask_B1TS)
    loss, _ = TeacherObjective(teacher, 0.5).loss(small_model(), batch)
    assert 0 < float(loss.detach()) < 2
    of_itself, _ = TeacherObjective(teacher, 0.5).loss(teacher, batch)
    assert float(of_itself.detach()) == pytest.approx(0, abs=1e-6)


def test_what_is_made_of_it_knows_its_tokens(artifact: Artifact, tmp_path: Path) -> None:
    """Mixtures, training in a given shape, a shorter context, and the folder without an import."""
    inputs = {"base": artifact, "tuned": artifact, "documents": documents_artifact(tmp_path / "documents")}
    inputs["problems"] = problems_artifact(tmp_path / "problems")
    settings = InterpolateSettings(weights=(0.5,), max_tokens=4)
    mixed = interpolate.function(settings, Inputs(inputs), World(tmp_path, "interpolate").context)
    assert load_config(mixed.path).known_tokens == VOCABULARY
    open_model(mixed, CPU)

    shape = load_config(artifact.path)
    given = shape.model_copy(update={"context": 48})
    for asked in (None, given):
        start = starting_point(asked, 0, artifact, None, artifact, VOCABULARY)
        assert (start.model.settings.vocabulary, start.model.settings.known_tokens) == (PADDED, VOCABULARY)

    folder = tmp_path / "theirs"
    padded_model("llama", tied=False).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer().definition()), encoding="utf-8")
    short = run_import(tmp_path, path=str(folder), context=40)
    assert load_config(short.path).known_tokens == VOCABULARY
    model, tokenizer = load(folder)
    session = ChatSession(model, tokenizer, temperature=1.0, max_tokens=30)
    assert session.reply("number 7?"), "an answer of padding would be no text at all"


def test_llama_cpp_names_what_pads(tmp_path: Path) -> None:
    definition = small_tokenizer().definition()
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    vocabulary = definition["model"]["vocab"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    padding = [f"[PAD{number}]" for number in range(VOCABULARY, PADDED)]
    model = padded_model("qwen3")
    write_gguf(tmp_path / "a.gguf", model, tokens=[*tokens, *padding])
    made = run_import(tmp_path, path=str(tmp_path / "a.gguf"), tokenizer=str(tmp_path))
    ours, _ = open_model(made, CPU)
    assert (made.metrics["vocabulary"], made.metrics["tokens"]) == (PADDED, VOCABULARY)
    tokens_BT = torch.arange(90).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens_BT), model(tokens_BT).logits, atol=1e-4, rtol=0)
    write_gguf(tmp_path / "b.gguf", model, tokens=[*tokens, "<tool>", *padding[1:]])
    with pytest.raises(InputError, match=r"token 276 of the GGUF file is '<tool>', .* does not know it: it is another"):
        run_import(tmp_path / "b", path=str(tmp_path / "b.gguf"), tokenizer=str(tmp_path))


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    theirs("llama", vocab_size=VOCABULARY - 1, hidden_size=32, head_dim=16).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer().definition()), encoding="utf-8")
    with pytest.raises(InputError, match="the tokenizer has 276 tokens, the model 275; give the model that was made"):
        run_import(tmp_path, path=str(folder))
    short = small_model()
    short.settings = short.settings.model_copy(update={"tokens": VOCABULARY - 1})
    with pytest.raises(InputError, match="the tokenizer has 276 tokens, the model 275; they were not made for each"):
        open_model(model_artifact(tmp_path / "wrong", short), CPU)
