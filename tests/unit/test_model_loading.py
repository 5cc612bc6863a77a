"""MODEL resolution: run, artifact, Hugging Face folder; and a helpful refusal of everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pocketlm.errors import CorruptionError, InputError
from pocketlm.evaluation.models.exports import export_hugging_face
from pocketlm.evaluation.models.loading import load, locate
from pocketlm.pipeline.artifact import Draft
from tests.evaluation_world import run_folder, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("loading"))


def test_a_run_means_its_final_model(run: Path) -> None:
    location = locate(run)
    assert location.folder == run / "artifacts" / "tuned"
    assert location.run == run.resolve()
    assert location.digest == location.artifact.manifest["digest"]  # type: ignore[union-attr]


def test_all_forms_load_the_same_model(run: Path, tmp_path: Path) -> None:
    export_hugging_face(locate(run), tmp_path / "hf")
    reference, tokenizer = trained()
    tokens = torch.tensor([tokenizer.encode("The cat went to the river")])
    with torch.inference_mode():
        expected = reference(tokens)
        for path in (run, run / "artifacts" / "tuned", tmp_path / "hf"):
            model, loaded = load(path)
            assert torch.equal(model(tokens), expected)
            assert loaded.encode("river") == tokenizer.encode("river")
    assert locate(tmp_path / "hf").form == "hugging_face"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("rum", r"there is no folder .*rum; did you mean .*run\?"),
        ("run/artifacts/curate", "holds documents, not a model; models beside it: base, tuned"),
        ("run/artifacts", r"holds no model.*It holds: base, curate, problems, tuned; name one of them"),
        ("", r"holds no model.*It holds: run; name one of them"),
    ],
)
def test_what_is_no_model_is_refused_with_the_nearest_thing(run: Path, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        locate(run.parent / path)


def test_an_unfinished_run_names_the_models_that_it_has(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    (run / "recipe.yaml").write_text("name: tiny\nmodel: rlvr\n")
    with pytest.raises(InputError, match=r"has no finished rlvr yet.*models in it: base, tuned"):
        locate(run)
    (run / "recipe.yaml").write_text("name: tiny\n")
    with pytest.raises(InputError, match="does not say which stage makes the final model"):
        locate(run)


def test_a_flipped_byte_in_the_weights_is_found_and_named(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    weights = run / "artifacts" / "tuned" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"model\.safetensors"):
        locate(run)


def evaluation_in(run: Path, stage: str, digests: dict[str, str], figures: int = 1, split: str = "report") -> None:
    manifest = {"kind": "evaluation", "stage": stage, "fingerprint": stage, "settings": {"split": split}}
    draft = Draft(run / "artifacts" / stage, manifest)
    draft.write_json("results.json", {"models": {name: {"digest": digest} for name, digest in digests.items()}})
    draft.commit({f"tuned.task_{number}.accuracy": 0.5 for number in range(figures)})


def test_the_evaluation_beside_a_model_is_one_that_scored_it(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    tuned, base = (locate(run / "artifacts" / name) for name in ("tuned", "base"))
    assert tuned.companions()[1] is None
    evaluation_in(run, "a_first_look", {"base": base.digest, "tuned": "of an earlier one"})
    assert tuned.companions()[1] is None

    def beside() -> list[str | None]:
        found = [location.companions()[1] for location in (tuned, base)]
        return [one and one.stage for one in found]

    evaluation_in(run, "chosen", {"tuned": tuned.digest}, figures=9, split="selection")
    assert beside() == ["chosen", "a_first_look"]
    evaluation_in(run, "evaluate", {"tuned": tuned.digest})
    evaluation_in(run, "evaluate_more", {"tuned": tuned.digest, "base": base.digest}, figures=5)
    assert beside() == ["evaluate_more", "evaluate_more"]
