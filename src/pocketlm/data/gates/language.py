"""Language identification with a fastText model file that the user gives, such as lid.176.ftz (Joulin et al. 2016,
arXiv 1612.03651), on the beginning of each document. Needs the extra `language`.

This is the one gate with Python for every document: one call of about a tenth of a millisecond into the C++ runtime,
whatever the document's length, since it reads the first kilobyte only (bench/results/gates.json).
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pocketlm.data.gates.gate_settings import GateSettings
from pocketlm.data.text import Text
from pocketlm.errors import InputError

HEAD_BYTES = 1_000
"""As much of a document as is looked at."""
CANDIDATES = 5
"""A language that is not among so many most probable ones counts as probability 0; it can have at most 1/6."""


def identify(
    texts: pa.Array, model: str | Path, thresholds: Sequence[GateSettings], source_index: np.ndarray
) -> np.ndarray:
    """Probability that a document is in one of the languages that its source allows (the highest of them).

    Args:
        texts: without nulls. model: fastText model file.
        thresholds: of each source; where `minimum_language_confidence` is None the documents are not looked at.
        source_index: int [documents], row of `thresholds` of each document.

    Returns:
        float64 [documents], NaN where not looked at.

    Raises:
        InputError: the runtime is not installed, or the file is no fastText model.
    """
    asked = [
        None
        if one.minimum_language_confidence is None
        else frozenset(f"__label__{language}" for language in one.languages)
        for one in thresholds
    ]
    confidence = np.full(len(source_index), np.nan)
    if all(labels is None for labels in asked):
        return confidence
    predict = _load(str(model)).predict
    text = Text.from_arrow(texts)
    starts = text.offsets.tolist()
    for document, source in enumerate(source_index.tolist()):
        labels = asked[source]
        if labels is not None:
            start = starts[document]
            head = text.data[start : min(start + HEAD_BYTES, starts[document + 1])].tobytes()
            found = predict(head.decode("utf-8", "ignore").replace("\n", " "), k=CANDIDATES)
            confidence[document] = max((p for label, p in zip(*found, strict=True) if label in labels), default=0.0)
    return np.minimum(confidence, 1.0)  # fastText's softmax may end a rounding above 1


def model_identity(model: str | Path) -> str:
    """SHA-256 of the model file, which stands for it in a run's identity. InputError when it cannot be read."""
    try:
        return hashlib.sha256(Path(model).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"language model {model}: {error.strerror}. Give the path of a fastText model such as lid.176.ftz, or set "
            "minimum_language_confidence to null."
        ) from None


@lru_cache(maxsize=2)
def _load(model: str) -> Any:
    try:
        fasttext = importlib.import_module("fasttext")
    except ImportError:
        raise InputError(
            "the gate minimum_language_confidence needs a fastText runtime, which is not installed: "
            "pip install 'pocketlm[language]', or set it to null."
        ) from None
    model_identity(model)
    try:
        return fasttext.load_model(model)
    except ValueError as error:
        raise InputError(f"language model {model}: {error}. Give a fastText model such as lid.176.ftz.") from None
