"""Bits that a model needs for each held-out document: the numerator of bits per byte.

Every document is read from its border token on, in windows of the model's context without overlap: the last token of a
window is the first of the next one's input (lm-eval's rolling log-likelihood with one token of context). The ending
border is not counted: bytes of text are what is divided by.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pocketlm.model.loss import IGNORE, token_log_probabilities
from pocketlm.model.transformer import Transformer

ROWS = 16  # windows of one forward pass; also the shape that results are reproducible for


@torch.no_grad()
def document_bits(model: Transformer, documents: Sequence[np.ndarray], border: int) -> np.ndarray:
    """Bits (float64) of every document, [documents].

    `documents` hold token ids without border tokens; `border` is the id of the token between documents.
    """
    context, device = model.settings.context, model.head_weight_VD.device
    inputs, targets, owners = [], [], []
    for owner, tokens in enumerate(documents):
        stream = np.concatenate([[border], tokens]).astype(np.int64)
        for start in range(0, len(tokens), context):
            window = stream[start : start + context + 1]
            inputs.append(_padded(window[:-1], context, border))
            targets.append(_padded(window[1:], context, IGNORE))
            owners.append(owner)
    bits = np.zeros(len(documents))
    for start in range(0, len(owners), ROWS):
        tokens_BT = torch.from_numpy(np.stack(inputs[start : start + ROWS])).to(device)
        targets_BT = torch.from_numpy(np.stack(targets[start : start + ROWS])).to(device)
        nats_B = _nats(model, tokens_BT, targets_BT)
        np.add.at(bits, owners[start : start + ROWS], nats_B.cpu().numpy() / math.log(2))
    return bits


def _nats(model: Transformer, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
    log_probability_BT, _ = token_log_probabilities(model.hidden(tokens_BT), model.head_weight_VD, targets_BT)
    return -log_probability_BT.double().sum(1)


def _padded(window: np.ndarray, length: int, filler: int) -> np.ndarray:
    return np.pad(window, (0, length - len(window)), constant_values=filler)
