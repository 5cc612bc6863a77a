"""The stage `merge`, and what it shares with `interpolate`: candidates, rules, skills, and what they refuse."""

import math

import pyarrow
import pyarrow.parquet
import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.storage import load_model, save_model
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.merging import candidates
from pocketlm.posttraining.merging.interpolation import copy_weights, linear
from pocketlm.stages.interpolate import InterpolateSettings, interpolate
from pocketlm.stages.merge import MergeSettings, merge
from tests import posttraining_world as world

TALK = [{"role": "user", "content": "number 3"}, {"role": "assistant", "content": "and 9"}]


def other_model() -> Transformer:
    """A relative of the taught model that knows less."""
    model = world.small_model()
    start, taught = model.state_dict(), world.taught_weights()
    copy_weights(model, {name: 0.6 * weight + 0.4 * start[name] for name, weight in taught.items()})
    return model


@pytest.fixture
def inputs(tmp_path):
    return {
        "base": world.model_artifact(tmp_path / "start", world.small_model()),
        "models": {
            "taught": world.model_artifact(tmp_path / "taught", world.taught_model()),
            "other": world.model_artifact(tmp_path / "other", other_model()),
        },
        "documents": world.documents_artifact(tmp_path / "documents"),
        "conversations": world.artifact(
            tmp_path / "talks", "conversations", {"selection.jsonl": [{"id": "a", "messages": TALK}] * 70}
        ),
    }


def run(settings, inputs, folder) -> Artifact:
    return merge.function(settings, Inputs(inputs), world.World(folder, "merge").context)


@pytest.mark.parametrize(
    ("method", "mixtures"), [("linear", 1), ("task_arithmetic", 2), ("ties", 4), ("dare_linear", 4), ("dare_ties", 4)]
)
def test_merge_keeps_the_candidate_of_its_rule(inputs, tmp_path, method, mixtures):
    grid = {} if method == "linear" else {"scales": (0.5, 1.0)}
    settings = MergeSettings(method=method, loss_tolerance=0.5, **grid)
    made = run(settings, inputs, tmp_path)
    rows = made.read_jsonl("log.jsonl")
    assert [row["mixture"] for row in rows[:3]] == ["the base", "taught", "other"]
    assert made.metrics["mixtures"] == len(rows) == 3 + mixtures
    bar = min(row["loss on conversations"] for row in rows) + 0.5
    best = min((row for row in rows if row["loss on conversations"] <= bar), key=lambda row: row["bits per byte"])
    assert [row["mixture"] for row in rows if row["chosen"]] == [best["mixture"]] == [made.metrics["chosen.mixture"]]
    assert made.metrics["selection.loss"] == {
        "value": best["loss on conversations"], "n": 70, "unit": "nats a token"
    }  # fmt: skip
    again = run(settings, inputs, tmp_path / "again")
    assert again.digest == made.digest


def test_the_artifact_holds_the_weights_that_were_scored(inputs, tmp_path):
    """`linear` alone within its tolerance: the average of the two models, bit for bit, with the tuned tokenizer."""
    inputs["models"] = {name: inputs["models"][name] for name in ("other", "taught")}
    made = run(MergeSettings(method="linear", weights=(1, 3), allowed_forgetting=9.0), inputs, tmp_path)
    rows = made.read_jsonl("log.jsonl")
    best = min(rows, key=lambda row: row["loss on conversations"])
    parts = {name: load_model(artifact.path).state_dict() for name, artifact in inputs["models"].items()}
    wanted = parts | {"linear": linear(list(parts.values()), [0.25, 0.75])}
    assert best["chosen"] == "yes"
    found = load_model(made.path).state_dict()
    assert all(torch.equal(weight, wanted[best["mixture"]][name]) for name, weight in found.items())
    assert made.file("chat_template.jinja").read_bytes() == inputs["models"]["other"].file(
        "chat_template.jinja"
    ).read_bytes()  # fmt: skip


def test_the_greedy_soup_ends_no_worse_than_its_best_model(inputs, tmp_path):
    made = run(MergeSettings(method="greedy_soup", allowed_forgetting=9.0), inputs, tmp_path)
    rows = made.read_jsonl("log.jsonl")
    assert [row["models"] for row in rows] == ["", "", "", "taught, other"]
    assert made.metrics["selection.loss"]["value"] == min(row["loss on conversations"] for row in rows)


def test_the_plot_shows_one_line_for_each_density(inputs, tmp_path):
    made = run(MergeSettings(method="ties", scales=(0.5, 1.0)), inputs, tmp_path)
    chart = made.read_json("figures.json")["blocks"][1]
    assert (chart["kind"], chart["x"], chart["y"]) == ("line_chart", "bits per byte", "loss on conversations")
    assert list(dict.fromkeys(row[chart["series"]] for row in chart["rows"])) == [
        "the base", "taught", "other", "ties, density 0.2", "ties, density 0.5"
    ]  # fmt: skip


def test_milestones_are_models_of_their_own(inputs, tmp_path):
    def write(path):
        save_model(path, world.taught_model())
        for tokens in (2000, 500):
            folder = path / "milestones" / str(tokens)
            folder.mkdir(parents=True)
            save_model(folder, other_model())

    kept = world.artifact(tmp_path / "kept", "model", {"": write})
    tokenizer = inputs["base"].file("tokenizer.json").read_text()
    (kept.path / "tokenizer.json").write_text(tokenizer)
    inputs["models"] = {"run": Artifact(kept.path, {**kept.manifest, "files": _files(kept.path)})}
    made = run(MergeSettings(method="linear", milestones=True), inputs, tmp_path)
    rows = made.read_jsonl("log.jsonl")
    assert [row["mixture"] for row in rows] == [
        "the base", "run at 500 tokens", "run at 2,000 tokens", "run", "linear"
    ]  # fmt: skip
    assert rows[1]["loss on conversations"] == rows[2]["loss on conversations"] != rows[3]["loss on conversations"]


def _files(folder):
    return {str(path.relative_to(folder)): {"sha256": ""} for path in folder.rglob("*") if path.is_file()}


def documents(folder, *texts: str) -> Artifact:
    table = pyarrow.table({"id": list(map(str, range(len(texts)))), "text": texts})
    return world.artifact(
        folder, "documents", {"": lambda path: pyarrow.parquet.write_table(table, path / "heldout_selection.parquet")}
    )


@pytest.mark.parametrize(("allowed", "weight"), [(0.0, 0.0), (0.25, 0.2), (9.0, 1.0)])
def test_gain_on_own_texts_is_bounded_by_forgetting_of_others(inputs, tmp_path, allowed, weight):
    """Without problems: with more of the tuned model one text gets better and the other worse, step by step."""
    given = {"base": inputs["base"], "tuned": inputs["models"]["taught"]}
    given["documents"] = documents(tmp_path / "original", "1 2 3 4 5", "12 13 14")
    given["tuned_documents"] = documents(tmp_path / "own", "zebra quince", "jumpy vow")
    settings = InterpolateSettings(weights=(0.0, 0.1, 0.2, 0.3, 1.0), allowed_forgetting=allowed)
    made = interpolate.function(settings, Inputs(given), world.World(tmp_path, "interpolate").context)
    rows = made.read_jsonl("log.jsonl")
    own, original = ([row[name] for row in rows] for name in ("bits per byte of tuned_documents", "bits per byte"))
    assert own == sorted(own, reverse=True)
    assert original == sorted(original)
    assert original[2] - original[0] < 0.25 < original[3] - original[0]
    assert made.metrics["weight"] == weight
    assert made.metrics["selection.tuned_bits_per_byte"]["value"] == own[settings.weights.index(weight)]
    assert "Rule: the best bits per byte of tuned_documents" in made.read_json("figures.json")["blocks"][0]["text"]


def test_slerp_is_another_mixture_than_linear(inputs, tmp_path):
    given = {"base": inputs["base"], "tuned": inputs["models"]["taught"]}
    given |= {name: inputs[name] for name in ("documents", "conversations")}
    rows = {}
    for method in ("linear", "slerp"):
        context = world.World(tmp_path / method, "interpolate").context
        made = interpolate.function(InterpolateSettings(method=method, weights=(0.0, 0.5, 1.0)), Inputs(given), context)
        rows[method] = [row["bits per byte"] for row in made.read_jsonl("log.jsonl")]
    assert rows["linear"][::2] == rows["slerp"][::2]
    assert rows["linear"][1] != rows["slerp"][1]


def test_exactly_one_tuned_skill_is_scored(inputs, tmp_path):
    without = {name: item for name, item in inputs.items() if name != "conversations"}
    with pytest.raises(InputError, match="exactly one of problems, conversations, tuned_documents; given: none"):
        run(MergeSettings(), without, tmp_path)
    both = inputs | {"tuned_documents": inputs["documents"]}
    with pytest.raises(InputError, match="given: conversations, tuned_documents"):
        run(MergeSettings(), both, tmp_path)


def test_conversations_that_cannot_be_scored_are_counted_or_refused(inputs, tmp_path):
    mute, long = TALK[:1], [TALK[0], {"role": "assistant", "content": "number and " * 200}]
    rows = [{"id": str(place), "messages": messages} for place, messages in enumerate((TALK, mute, long))]
    inputs["conversations"] = world.artifact(tmp_path / "mixed", "conversations", {"selection.jsonl": rows})
    made = run(MergeSettings(method="linear"), inputs, tmp_path)
    assert made.metrics["selection.loss"]["n"] == 1
    assert "1 selection conversations (2 left out);" in made.read_json("figures.json")["blocks"][2]["note"]
    inputs["conversations"] = world.artifact(tmp_path / "none", "conversations", {"selection.jsonl": rows[1:]})
    with pytest.raises(InputError, match="holds no conversation with an answer"):
        run(MergeSettings(), inputs, tmp_path / "none-run")


def test_mixtures_are_asked_in_the_chat_form_of_the_tuned_models(inputs, tmp_path):
    (inputs["base"].path / "chat_template.jinja").write_text("{{ raise_exception('the base knows no turns') }}")
    made = run(MergeSettings(method="linear"), inputs, tmp_path)
    assert made.metrics["selection.loss"]["n"] == 70


def test_models_that_do_not_fit_each_other_are_refused(inputs, tmp_path):
    settings = world.small_model().settings

    def refused(name: str, model: Transformer, message: str) -> None:
        models = {**inputs["models"], name: world.model_artifact(tmp_path / name, model)}
        with pytest.raises(InputError, match=message):
            run(MergeSettings(), {**inputs, "models": models}, tmp_path / f"{name}-run")

    def shaped(**changes) -> Transformer:
        model = Transformer(ModelSettings.model_validate(settings.model_dump() | changes))
        model.init_weights(0)
        return model

    refused(
        "narrow", shaped(ffn_width=32), r"mlp\.gate_proj\.weight is \[64, 32\] in the base and \[32, 32\] in narrow"
    )
    refused("deep", shaped(layers=3), r"tensor model\.layers\.2\..* is in one of the base and deep only")
    refused("untied", shaped(tie_embeddings=False), r"lm_head\.weight .* untied only; one ties its head")
    refused("turned", shaped(rope_theta=5000.0), "rope_theta is 10000.0 in the base and 5000.0 in turned")
    refused("fewer", shaped(heads=1, kv_heads=1, head_dim=32), "heads is 2 in the base and 1 in fewer")
    broken = world.taught_model()
    with torch.no_grad():
        broken.final_norm.weight[0] = math.nan
    refused("broken", broken, r"tensor model\.norm\.weight of broken holds NaN")


def test_a_candidate_without_a_finite_score_is_named(inputs, tmp_path, monkeypatch):
    bits = iter([2.0, 2.1, 2.2, math.nan])
    monkeypatch.setattr(candidates, "bits_per_byte", lambda *_: next(bits))
    with pytest.raises(InputError, match=r"mixture ties, density 0\.2, scale 0\.3 .*bits per byte is nan"):
        run(MergeSettings(), inputs, tmp_path)


def test_settings_that_a_method_does_not_read_are_refused():
    for changes, message in (
        ({"method": "linear", "scales": (0.1,)}, "linear has no scales"),
        ({"method": "task_arithmetic", "densities": (0.1,)}, "task_arithmetic has no densities"),
        ({"method": "greedy_soup", "weights": (1.0,)}, "greedy_soup has no weights"),
        ({"weights": (1.0, -1.0)}, "greater than 0"),
        ({"densities": (0.0,)}, "greater than 0"),
    ):
        with pytest.raises(ValueError, match=message):
            MergeSettings(**changes)
    with pytest.raises(ValueError, match="put 0 into weights"):
        InterpolateSettings(weights=(0.5, 1.0), allowed_forgetting=0.1)


def test_every_model_needs_its_weight(inputs, tmp_path):
    with pytest.raises(InputError, match=r"merge\.weights: 1 weights for 2 models; one for each of taught, other"):
        run(MergeSettings(weights=(1.0,)), inputs, tmp_path)
