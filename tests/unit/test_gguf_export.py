"""`pocketlm export --to gguf`, and exports of models that were made elsewhere: what is written, checked and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from pocketlm.cli import app
from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES, Tokenizer
from pocketlm.errors import GateFailed, InputError
from pocketlm.evaluation.models.exports import export_gguf, export_hugging_face
from pocketlm.evaluation.models.gguf_export import StoredKind, stored_lines, write_gguf_file
from pocketlm.evaluation.models.loading import load, locate
from pocketlm.evaluation.models.model_card import Provenance
from pocketlm.evaluation.models.stated_licence import StatedLicence, stated_licence
from pocketlm.model.formats import gguf_writing
from pocketlm.model.formats.gguf_file import GGUFFile
from pocketlm.pipeline.artifact import Artifact
from tests.chat_templates import DEFAULT_SYSTEM
from tests.evaluation_world import run_folder, trained

PROMPT = "The cat went to"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("gguf-export"))


def file_in(folder: Path, file_type: str = "q8_0", **provenance: Any) -> Path:
    model, tokenizer = trained()
    write_gguf_file(folder / "tiny.gguf", model, tokenizer, file_type, Provenance("Tiny", "d" * 64, **provenance))
    return folder / "tiny.gguf"


def test_a_run_becomes_a_file_that_says_where_it_is_from(run: Path, tmp_path: Path) -> None:
    lines = export_gguf(locate(run), tmp_path / "tiny.gguf", "f32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.Modelfile", "tiny.gguf"]
    metadata = GGUFFile(tmp_path / "tiny.gguf").metadata
    tuned = Artifact.open(run / "artifacts" / "tuned")
    assert (metadata["general.name"], metadata["pocketlm.stage"]) == ("tiny", "tuned")
    assert metadata["pocketlm.digest"] == tuned.digest
    assert (metadata["general.license"], metadata["general.license.name"]) == ("other", "training-data-licences")
    assert "MIT: 3 documents, 300 bytes" in (tmp_path / "tiny.Modelfile").read_text()
    model, tokenizer = load(tmp_path / "tiny.gguf")
    own, own_tokenizer = load(run)
    assert all(map(torch.equal, model.state_dict().values(), own.state_dict().values()))
    assert tokenizer.encode(PROMPT) == own_tokenizer.encode(PROMPT)
    assert [line.split()[0] for line in lines] == ["type", "F32", "all", "for"]
    count = sum(weight.numel() for weight in own.parameters())
    assert lines[1].split() == ["F32", "20", f"{count:,}", f"{4 * count:,}", "32.00", "0"]


def test_the_command_writes_it_and_names_bad_requests(run: Path, tmp_path: Path) -> None:
    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["export", str(run), *arguments], standalone_mode=False)

    def refused(*arguments: str) -> str:
        error = invoke(*arguments).exception
        assert isinstance(error, InputError)
        return str(error)

    done = invoke("--to", "gguf", str(tmp_path / "a.gguf"), "--type", "q4_0")
    assert done.exception is None
    assert f"written: {tmp_path / 'a.gguf'}" in done.output
    for arguments, message in (
        (["--to", "gguf", str(tmp_path / "a.gguf")], "exists: export writes a new file"),
        (["--to", "gguf", str(tmp_path / "b.bin")], "ends with .gguf"),
        (["--to", "gguf", str(tmp_path)], "no name for a GGUF file"),
        (["--to", "gguf", str(tmp_path / "none" / "b.gguf")], "there is no folder"),
        (["--to", "gguf", str(tmp_path / "b.gguf"), "--type", "q4_k"], "did you mean 'q4_k_m'"),
        (["--to", "hf", str(tmp_path / "b"), "--type", "q8_0"], "there are f32, bf16, f16"),
    ):
        assert message in refused(*arguments)
    (tmp_path / "c.Modelfile").write_text("FROM ./mine")
    assert "c.Modelfile exists and says something else" in refused("--to", "gguf", str(tmp_path / "c.gguf"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.Modelfile", "a.gguf", "c.Modelfile"]


def test_a_killed_export_can_be_done_again(tmp_path: Path) -> None:
    path = file_in(tmp_path)
    content = path.read_bytes()
    path.unlink()
    assert file_in(tmp_path).read_bytes() == content


@pytest.mark.parametrize("damage", ["rows", "tokens", "context"])
def test_what_is_not_read_back_as_the_model_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    original = {name: getattr(gguf_writing, name) for name in ("stored", "_add_vocabulary", "_metadata")}

    def rows(weight: Any, kind: str, name: str) -> Any:
        return original["stored"](weight[::-1] if name == "blk.1.attn_q.weight" else weight, kind, name)

    def tokens(writer: Any, vocabulary: Any) -> None:
        before, after = vocabulary.tokens[:70], vocabulary.tokens[72:]
        swapped = [*before, vocabulary.tokens[71], vocabulary.tokens[70], *after]
        original["_add_vocabulary"](writer, replace(vocabulary, tokens=swapped))

    def context(*arguments: Any) -> Any:
        return original["_metadata"](*arguments) | {"llama.context_length": 100}

    name, change = {
        "rows": ("stored", rows), "tokens": ("_add_vocabulary", tokens), "context": ("_metadata", context)
    }[damage]  # fmt: skip
    monkeypatch.setattr(gguf_writing, name, change)
    message = {"rows": r"blk\.1\.attn_q\.weight as F16", "tokens": "its tokenizer", "context": "written as 128"}
    with pytest.raises(GateFailed, match=message[damage]):
        file_in(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_single_precision_rounds_are_no_difference(tmp_path: Path) -> None:
    model, tokenizer = trained()
    changed = type(model)(model.settings.model_copy(update={"rope_theta": 123456.789, "norm_epsilon": 1.23456789e-6}))
    changed.load_state_dict(model.state_dict())
    write_gguf_file(tmp_path / "odd.gguf", changed, tokenizer, "f16", Provenance("Odd", "d"))
    assert load(tmp_path / "odd.gguf")[0].settings.rope_theta == pytest.approx(123456.789, rel=1e-7)


def test_the_table_says_what_is_stored() -> None:
    lines = stored_lines([StoredKind("Q5_0", 2, 3200, 2200, 0.0431), StoredKind("F32", 1, 32, 128, 0.0)])
    assert lines == [
        "type  tensors  weights  bytes  bits a weight  relative error",
        "Q5_0        2    3,200  2,200           5.50           0.043",
        "F32         1       32    128          32.00               0",
        "all         3    3,232  2,328           5.76",
    ]


def test_errors_are_those_of_the_weights(tmp_path: Path) -> None:
    model, tokenizer = trained()
    [rounded] = [
        kind
        for kind in write_gguf_file(tmp_path / "a.gguf", model, tokenizer, "f16", Provenance("a", "d"))
        if kind.kind == "F16"
    ]
    whole = [weight.detach() for weight in model.parameters() if weight.ndim == 2]
    change = sum(float((weight.half().double() - weight.double()).square().sum()) for weight in whole)
    assert rounded.error == pytest.approx(
        (change / sum(float(weight.double().square().sum()) for weight in whole)) ** 0.5
    )
    assert rounded.bytes == 2 * rounded.weights == 2 * sum(weight.numel() for weight in whole)


@pytest.mark.parametrize("number_type", ["f32", "bf16", "f16"])
def test_a_gguf_file_becomes_a_hugging_face_folder(
    tmp_path: Path, number_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenizer, chat form and licence come out of the file; transformers reads the tokens that we read."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    path = file_in(tmp_path, "f16", stated=StatedLicence("apache-2.0"))
    monkeypatch.chdir(tmp_path)
    export_hugging_face(locate(path), Path("hf"), number_type)
    names = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
    assert {str(weight.dtype) for weight in load_file("hf/model.safetensors").values()} == {
        f"torch.{names[number_type]}"
    }
    assert json.loads(Path("hf/config.json").read_text())["dtype"] == names[number_type]
    tokenizer = AutoTokenizer.from_pretrained("hf")
    assert tokenizer(PROMPT)["input_ids"] == trained()[1].encode(PROMPT)
    messages = [{"role": "user", "content": "hi"}]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    card = Path("hf/README.md").read_text()
    assert "license: apache-2.0\nlicense_link: LICENSE" in card
    assert "made elsewhere" in card
    assert ("| numbers | " in card) == (number_type != "f32")
    assert "states the licence apache-2.0" in Path("hf/LICENSE").read_text()
    assert all(Path("hf", name).is_file() for name in TOKENIZER_FILES)
    model, _ = load(Path("hf"))
    expected, _ = load(path)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(getattr(torch, names[number_type])).float())


def test_a_foreign_folder_keeps_its_template_and_licence(run: Path, tmp_path: Path) -> None:
    """The template stands in tokenizer_config.json, as before transformers wrote a file for it."""
    export_hugging_face(locate(run), tmp_path / "hf")
    source = tmp_path / "hf"
    (source / "chat_template.jinja").unlink()
    settings = json.loads((source / "tokenizer_config.json").read_text()) | {"chat_template": DEFAULT_SYSTEM}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    (source / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (source / "LICENSE").write_text("Do as you like.\n")
    export_hugging_face(locate(source), tmp_path / "again")
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == DEFAULT_SYSTEM
    assert (tmp_path / "again" / "LICENSE").read_text() == "Do as you like.\n"
    assert "license: mit\n" in (tmp_path / "again" / "README.md").read_text()
    export_gguf(locate(source), tmp_path / "mine.gguf")
    file = GGUFFile(tmp_path / "mine.gguf")
    assert (file.metadata["general.license"], "general.license.name" in file.metadata) == ("mit", False)
    assert file.metadata["tokenizer.chat_template"] == DEFAULT_SYSTEM
    assert 'SYSTEM """You help."""' in (tmp_path / "mine.Modelfile").read_text()


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: other\nlicense_name: my licence\n---\n", StatedLicence("other", "my licence")),
        ("---\nlicense: [a, b]\n---\n", StatedLicence()),
        ("---\nlicense: {a\n---\n", StatedLicence()),
        ("---\n- license\n---\n", StatedLicence()),
        ("No metadata --- here", StatedLicence()),
        ("", StatedLicence()),
    ],
)
def test_only_what_is_stated_is_known(run: Path, tmp_path: Path, card: str, expected: StatedLicence) -> None:
    export_hugging_face(locate(run), tmp_path / "hf")
    (tmp_path / "hf" / "LICENSE").unlink()
    (tmp_path / "hf" / "README.md").write_text(card)
    assert stated_licence(locate(tmp_path / "hf")) == expected


def test_a_number_that_does_not_fit_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketlm.evaluation.models.loading import ModelLocation

    original = ModelLocation.load

    def large(location: ModelLocation, *arguments: Any) -> tuple[Any, Tokenizer]:
        model, tokenizer = original(location, *arguments)
        with torch.no_grad():
            model.state_dict()["blocks.0.attention.output.weight"][0, 0] = 1e6
        return model, tokenizer

    monkeypatch.setattr(ModelLocation, "load", large)
    with pytest.raises(InputError, match="f16 cannot hold"):
        export_hugging_face(locate(run), tmp_path / "hf", "f16")
    with pytest.raises(InputError, match="too large for F16"):
        export_gguf(locate(run), tmp_path / "a.gguf", "f16")
    assert list(tmp_path.iterdir()) == []
