"""Where a MODEL argument leads: a run folder (its final model), an artifact folder, a Hugging Face folder, or a GGUF
file."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.pipeline.storage import MANIFEST, describe_files, digest_of, read_manifest, sha256_file, sha256_text

if TYPE_CHECKING:
    import torch

    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer

RECIPE = "recipe.yaml"
ARTIFACTS = "artifacts"
GGUF = ".gguf"


@dataclass(frozen=True)
class ModelLocation:
    """A folder (or a GGUF file) that holds a model.

    Attributes:
        folder: where config, weights and tokenizer lie; the file itself of a GGUF.
        form: `pocketlm` (our names), `hugging_face` or `gguf`.
        run: the run folder that the model is part of, if any.
        artifact: the verified artifact, if the folder is one.
        tokenizer_file: tokenizer.json beside or for a GGUF; None takes the tokenizer that the file carries.
    """

    folder: Path
    form: Literal["pocketlm", "hugging_face", "gguf"]
    run: Path | None = None
    artifact: Artifact | None = None
    tokenizer_file: Path | None = None

    @property
    def digest(self) -> str:
        """The digest of the folder's files; of a GGUF the sha256 of the file (and of its tokenizer.json)."""
        if self.artifact is not None:
            return self.artifact.digest
        if self.form != "gguf":
            return digest_of(describe_files(self.folder))
        weights = sha256_file(self.folder)
        return weights if self.tokenizer_file is None else sha256_text(weights + sha256_file(self.tokenizer_file))

    def load(self, device: torch.device | str = "cpu") -> tuple[Transformer, Tokenizer]:
        """The model in fp32 on `device`, and its tokenizer, which asks in the folder's own chat form."""
        if self.form == "gguf":
            model, tokenizer = load_gguf_file(self.folder, self.tokenizer_file)
            return model.to(device).eval(), tokenizer
        from pocketlm.data.tokens.chat_template_files import load_tokenizer
        from pocketlm.model.formats.hugging_face import load_hugging_face
        from pocketlm.model.storage import load_model

        read = load_model if self.form == "pocketlm" else load_hugging_face
        model, tokenizer = read(self.folder, device).float().eval(), load_tokenizer(self.folder)
        _note_padding(model, tokenizer)
        return model, tokenizer

    def companions(self) -> tuple[Artifact | None, Artifact | None]:
        """The run's curated documents and its evaluation of this model, as far as it has them.

        Of several evaluations that scored it, one by which nothing was chosen, and of these the one with most figures.
        """
        artifacts = self._run_artifacts()
        documents = next((item for item in artifacts if "licences.json" in item.manifest["files"]), None)
        own = [item for item in artifacts if item.kind == "evaluation" and self._scored_by(item)]
        own.sort(key=lambda item: (item.manifest["settings"].get("split") == "selection", -len(item.metrics)))
        return documents, next(iter(own), None)

    def _scored_by(self, evaluation: Artifact) -> bool:
        scored = evaluation.read_json("results.json")["models"].values()
        return self.artifact is not None and self.artifact.digest in [one["digest"] for one in scored]

    def _run_artifacts(self) -> list[Artifact]:
        folders = [self.run / ARTIFACTS / name for name in _folders(self.run / ARTIFACTS)] if self.run else []
        return [Artifact.open(folder, verify=False) for folder in folders if (folder / MANIFEST).is_file()]


def load(path: Path, device: torch.device | str = "cpu") -> tuple[Transformer, Tokenizer]:
    """Model and tokenizer of a MODEL argument (see `locate`)."""
    return locate(path).load(device)


def load_gguf_file(weights: Path, tokenizer_file: Path | None) -> tuple[Transformer, Tokenizer]:
    """Model of a GGUF file in fp32, and the tokenizer that it was made with.

    Args:
        tokenizer_file: its tokenizer.json; None takes the tokenizer and chat form that the file carries.

    Raises:
        InputError: either cannot be read, or `tokenizer_file` numbers tokens otherwise than the GGUF file. Ids that the
            tokenizer lacks must be what llama.cpp's converter fills a padded vocabulary up with.
    """
    import tokenizers

    from pocketlm.data.tokens.chat_template_files import set_text_start
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.formats.gguf import gguf_chat_template, gguf_tokens, load_gguf
    from pocketlm.model.formats.gguf_tokenizer import gguf_tokenizer, padding_token

    model = load_gguf(weights)
    if tokenizer_file is None:
        tokenizer = gguf_tokenizer(weights)
        _note_padding(model, tokenizer)
        return model, tokenizer
    tokenizer = Tokenizer.load(tokenizer_file)
    ids = tokenizers.Tokenizer.from_file(str(tokenizer_file)).get_vocab(with_added_tokens=True)
    for number, token in enumerate(gguf_tokens(weights)):
        if ids.get(token) != number and not (number >= tokenizer.vocabulary and token == padding_token(number)):
            raise InputError(
                f"tokenizer: token {number} of the GGUF file is {token!r}, but {tokenizer_file} "
                f"{f'gives it the id {ids[token]}' if token in ids else 'does not know it'}: it is another tokenizer"
            )
    set_text_start(tokenizer, gguf_chat_template(weights)[1])
    _note_padding(model, tokenizer)
    return model, tokenizer


def locate(path: Path, tokenizer: Path | None = None) -> ModelLocation:
    """Find the model that `path` means; an artifact's files are re-hashed first.

    Args:
        tokenizer: tokenizer.json of a GGUF file; without it the one beside the file, or the one in it.

    Raises:
        InputError: there is no model at `path`; says what stands there and the nearest thing to try.
        CorruptionError: an artifact does not hold the bytes of its manifest.
    """
    if path.suffix == GGUF and path.is_file():
        beside = path.with_name("tokenizer.json")
        return ModelLocation(path, "gguf", tokenizer_file=tokenizer or (beside if beside.is_file() else None))
    if path.suffix == GGUF and not path.is_dir():
        near = difflib.get_close_matches(path.name, [item.name for item in path.parent.glob(f"*{GGUF}")], n=1)
        raise InputError(f"there is no file {path}{f'; did you mean {path.parent / near[0]}?' if near else ''}")
    if tokenizer is not None:
        raise InputError(f"--tokenizer is for a GGUF file; {path} is none and brings its own")
    if not path.is_dir():
        near = difflib.get_close_matches(path.name, _folders(path.parent), n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else "."
        raise InputError(
            f"there is no folder {path}{hint} A model is a run, a model artifact, a Hugging Face "
            "folder or a .gguf file."
        )
    if (path / MANIFEST).is_file():
        return _artifact(path)
    if (path / RECIPE).is_file():
        return _artifact(_final_model(path))
    if (path / "config.json").is_file() and (path / "tokenizer.json").is_file():
        return ModelLocation(path, "hugging_face")
    inside = [name for name in _folders(path) if (path / name / RECIPE).is_file() or (path / name / MANIFEST).is_file()]
    hint = f" It holds: {', '.join(inside)}; name one of them." if inside else ""
    raise InputError(
        f"{path} holds no model: neither a run ({RECIPE}), nor an artifact ({MANIFEST}), "
        f"nor a Hugging Face folder (config.json and tokenizer.json).{hint}"
    )


def _note_padding(model: Transformer, tokenizer: Tokenizer) -> None:
    """Tell a model whose embedding has more rows than its tokenizer has tokens which of them are padding."""
    if tokenizer.vocabulary < model.settings.vocabulary:
        model.settings = model.settings.model_copy(update={"tokens": tokenizer.vocabulary})


def _artifact(path: Path) -> ModelLocation:
    kind = read_manifest(path)["kind"]
    if kind not in ("model", "hugging_face"):
        others = [name for name in _folders(path.parent) if _is_model(path.parent / name)]
        hint = f"; models beside it: {', '.join(others)}" if others else ""
        raise InputError(f"{path} holds {kind}, not a model{hint}")
    run = path.resolve().parent.parent
    return ModelLocation(
        path,
        "pocketlm" if kind == "model" else "hugging_face",
        run if (run / RECIPE).is_file() else None,
        Artifact.open(path),
    )


def _final_model(run: Path) -> Path:
    recipe = load_yaml(run / RECIPE)
    name = recipe.get("model")
    made = [folder for folder in _folders(run / ARTIFACTS) if _is_model(run / ARTIFACTS / folder)]
    hint = f"; models in it: {', '.join(made)} (give {run / ARTIFACTS / made[-1]})" if made else ""
    if not name:
        raise InputError(f"{run / RECIPE} does not say which stage makes the final model (`model:`){hint}")
    if not (run / ARTIFACTS / str(name) / MANIFEST).is_file():
        raise InputError(f"the run {run} has no finished {name} yet; run the recipe to its end{hint}")
    return run / ARTIFACTS / str(name)


def _is_model(path: Path) -> bool:
    return (path / MANIFEST).is_file() and read_manifest(path).get("kind") == "model"


def _folders(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir() if item.is_dir()) if path.is_dir() else []
