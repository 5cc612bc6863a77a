"""The exported folder, as transformers, stock lm-eval and other tools load it, and a check that transformers agrees.

Files: config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
chat_template.jinja, README.md (the model card) and LICENSE (the licences of the training text, or what a model made
elsewhere states for itself).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.data.tokens.tokenizer import tokenizer_config
from pocketlm.errors import GateFailed, InputError
from pocketlm.evaluation.models.model_card import Provenance, licence_text, model_card
from pocketlm.pipeline.figures import Block, paragraph, table
from pocketlm.pipeline.storage import json_bytes

if TYPE_CHECKING:
    import torch

    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.config import ModelSettings
    from pocketlm.model.transformer import Transformer

LARGEST_LOGIT_DIFFERENCE = 1e-4
CHECK_PROMPT = "The function returns"
CHECK_TOKENS = 16
CHECK_TOKENS_TEXT = "It's 1234 + 5,678 =\n\n  6.912e3; naïve Ünïcode: 東京, été, 🙂\t"


@dataclass(frozen=True)
class Agreement:
    """transformers against our model: largest difference of a logit (fp32), and whether greedy texts are equal."""

    logit_difference: float
    same_text: bool


def write_folder(
    folder: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    tokenizer_folder: Path,
    provenance: Provenance,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the export into an existing folder.

    Args:
        tokenizer_folder: where the tokenizer's files lie, as far as there are any; the others are made of `tokenizer`.
        dtype: of the weights; float32 unless given.
    """
    import torch

    from pocketlm.model.formats.hugging_face import export_weights

    dtype = dtype or torch.float32
    export_weights(model, folder, tokenizer.end_of_text, tokenizer.turn_end, dtype)
    number_type = str(dtype).removeprefix("torch.")
    files = tokenizer_files(tokenizer, tokenizer_folder) | card_files(model.settings, provenance, number_type)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def tokenizer_files(tokenizer: Tokenizer, folder: Path) -> dict[str, bytes]:
    """TOKENIZER_FILES as they lie in a folder; those that are not there are made of the tokenizer."""
    chat = tokenizer.chat_template
    made = {
        "tokenizer.json": json.dumps(tokenizer.definition(), ensure_ascii=False, indent=2).encode(),
        "tokenizer_config.json": json_bytes(tokenizer_config() | (chat.variables if chat is not None else {})),
        "chat_template.jinja": (CHAT_TEMPLATE if chat is None else chat.source).encode(),
    }
    return {
        name: (folder / name).read_bytes() if (folder / name).is_file() else content for name, content in made.items()
    }


def card_files(settings: ModelSettings, provenance: Provenance, number_type: str = "float32") -> dict[str, bytes]:
    """The model card and the licences."""
    texts = {"README.md": model_card(settings, provenance, number_type), "LICENSE": licence_text(provenance)}
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
        GateFailed: a logit differs by more than 1e-4, or the texts differ, or the tokens.
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
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (CHECK_PROMPT, CHECK_TOKENS_TEXT):
        if (found := reader(text, add_special_tokens=False)["input_ids"]) != tokenizer.encode(text):
            raise GateFailed(
                f"{folder}: transformers reads {text!r} as the tokens {found}, we {tokenizer.encode(text)}"
            )
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
