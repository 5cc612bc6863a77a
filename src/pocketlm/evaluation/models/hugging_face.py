"""The exported folder, as transformers, stock lm-eval and other tools load it, and a check that transformers agrees.

Files: config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
chat_template.jinja, README.md (the model card) and LICENSE (the licences of the training text).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES
from pocketlm.errors import GateFailed, InputError
from pocketlm.evaluation.models.model_card import Provenance, data_licences, model_card
from pocketlm.pipeline.figures import Block, paragraph, table

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.config import ModelSettings
    from pocketlm.model.transformer import Transformer

LARGEST_LOGIT_DIFFERENCE = 1e-4
CHECK_PROMPT = "The function returns"
CHECK_TOKENS = 16


@dataclass(frozen=True)
class Agreement:
    """transformers against our model: largest difference of a logit (fp32), and whether greedy texts are equal."""

    logit_difference: float
    same_text: bool


def write_folder(
    folder: Path, model: Transformer, tokenizer: Tokenizer, tokenizer_folder: Path, provenance: Provenance
) -> None:
    """Write the export into an existing folder.

    Raises:
        InputError: `tokenizer_folder` lacks one of the tokenizer's files.
    """
    from pocketlm.model.formats.hugging_face import export_weights

    export_weights(model, folder, tokenizer.end_of_text, tokenizer.turn_end)
    for name in TOKENIZER_FILES:
        if not (tokenizer_folder / name).is_file():
            raise InputError(f"{tokenizer_folder} has no {name}: export needs the folder of a model made by pocketlm")
        shutil.copyfile(tokenizer_folder / name, folder / name)
    for name, content in card_files(model.settings, provenance).items():
        (folder / name).write_bytes(content)


def card_files(settings: ModelSettings, provenance: Provenance) -> dict[str, bytes]:
    """The model card and the licences of the training text."""
    texts = {"README.md": model_card(settings, provenance), "LICENSE": data_licences(provenance.licences)}
    return {name: text.encode() for name, text in texts.items()}


def folder_blocks(logit_difference: float, files: Mapping[str, int]) -> list[Block]:
    """What the report shows of an exported folder that transformers agrees with; `files`: name -> bytes."""
    text = (
        "Loaded in transformers, the folder gives the same greedy text; the largest difference of a logit is "
        f"{logit_difference:.2g} (fp32)."
    )
    rows = [{"file": name, "bytes": size} for name, size in sorted(files.items())]
    return [paragraph(text), table("Files of the Hugging Face folder", ["file", "bytes"], rows)]


def require_new_folder(folder: Path) -> None:
    """Refuse to write over anything: InputError when `folder` is a file or holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: export writes a new folder; name another one or remove it")


def check_agreement(folder: Path, model: Transformer, tokenizer: Tokenizer) -> Agreement:
    """Load the folder in transformers and compare logits and greedy text with ours.

    Raises:
        GateFailed: a logit differs by more than 1e-4, or the texts differ.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")
    import torch
    import transformers

    from pocketlm.generation.engine import Engine, Request

    ours = model.cpu()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if bars:
        transformers.utils.logging.enable_progress_bar()
    prompt = [tokenizer.end_of_text, *tokenizer.encode(CHECK_PROMPT)]
    new_tokens = min(CHECK_TOKENS, ours.settings.context - len(prompt))
    ((completion,),) = Engine(ours).generate([Request(prompt, new_tokens)])
    tokens_BT = torch.tensor([prompt + completion.tokens])
    with torch.inference_mode():
        theirs_BTV, ours_BTV = theirs(tokens_BT).logits, ours(tokens_BT)
    difference = float((theirs_BTV - ours_BTV).abs().max())
    # Greedy decoding gives our text exactly when each of its tokens is the most likely one after those before it; ids
    # that are padding are not drawn.
    predicted = theirs_BTV[0, len(prompt) - 1 : -1, : ours.settings.known_tokens].argmax(-1).tolist()
    agreement = Agreement(difference, predicted == completion.tokens)
    if not (difference <= LARGEST_LOGIT_DIFFERENCE and agreement.same_text):
        raise GateFailed(
            f"{folder}: transformers does not agree with our model: largest logit difference {difference:.2g} "
            f"(at most {LARGEST_LOGIT_DIFFERENCE:g}), greedy text {'equal' if agreement.same_text else 'different'}"
        )
    return agreement
