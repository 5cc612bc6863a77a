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
from pocketlm.training.passes import passes, tokens_per_pass


@torch.no_grad()
def document_bits(model: Transformer, documents: Sequence[np.ndarray], border: int) -> np.ndarray:
    """Bits (float64) of every document, [documents].

    `documents` hold token ids without border tokens; `border` is the id of the token between documents.
    """
    context, device = model.settings.context, model.head_weight_VD.device
    windows, owners = [], []
    for owner, tokens in enumerate(documents):
        stream = np.concatenate([[border], tokens]).astype(np.int64)
        for start in range(0, len(tokens), context):
            windows.append(stream[start : start + context + 1])
            owners.append(owner)
    bits = np.zeros(len(windows))
    lengths = [len(window) - 1 for window in windows]
    for padded, chosen in passes(lengths, context, tokens_per_pass(device)):
        tokens_BT = torch.full((len(chosen), padded), border)
        targets_BT = torch.full((len(chosen), padded), IGNORE)
        for row, index in enumerate(chosen):
            window = torch.from_numpy(windows[index])
            tokens_BT[row, : lengths[index]] = window[:-1]
            targets_BT[row, : lengths[index]] = window[1:]
        nats_B = _nats(model, tokens_BT.to(device), targets_BT.to(device))
        bits[chosen] = nats_B.cpu().numpy() / math.log(2)
    return np.bincount(owners, bits, len(documents)) if owners else np.zeros(len(documents))


def _nats(model: Transformer, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
    log_probability_BT, _ = token_log_probabilities(model.hidden(tokens_BT), model.head_weight_VD, targets_BT)
    return -log_probability_BT.double().sum(1)
