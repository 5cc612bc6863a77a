"""Rows of any lengths in one forward pass, joined end to end: nothing is padded to the longest.

All products with weights see the tokens of all rows as one long row of a fixed length; attention is computed row by
row, in each row's own length. What a row yields thus depends on its own tokens and on the length of the pass, not on
the rows beside it.

Shape letters: N tokens of the pass, L tokens of one row, D width, H query heads, K key-value heads, E channels of a
head; B is 1.

Not covered: gradients, a key-value cache. On a GPU attention is a launch for every row and layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from pocketlm.model.transformer import Attention, Block, Transformer, attend


@torch.inference_mode()
def joined_hidden(
    model: Transformer, tokens_N: Tensor, positions_N: Tensor, lengths: Sequence[int], masks: Sequence[Tensor | None]
) -> Tensor:
    """Stream after the final norm, [N, D].

    Args:
        tokens_N: the rows one after the other; what follows the last one is blank, and its stream means nothing.
        positions_N: of the tokens in their texts.
        lengths: tokens of each row.
        masks: for each row a boolean [L, L], True where a query may attend to a key; None is causal attention.
    """
    positions_1N = positions_N.unsqueeze(0)
    rotary = model.cosine_SC[positions_1N].unsqueeze(2), model.sine_SC[positions_1N].unsqueeze(2)
    hidden_1ND = model.embedding(tokens_N).unsqueeze(0)
    for layer in model.blocks:
        block = cast(Block, layer)
        mixed_1ND = _attention(block.attention, block.attention_norm(hidden_1ND), rotary, lengths, masks)
        hidden_1ND = hidden_1ND + mixed_1ND
        hidden_1ND = hidden_1ND + block.mlp(block.mlp_norm(hidden_1ND))
    hidden_ND: Tensor = model.final_norm(hidden_1ND).squeeze(0)
    return hidden_ND


def _attention(
    attention: Attention,
    hidden_1ND: Tensor,
    rotary: tuple[Tensor, Tensor],
    lengths: Sequence[int],
    masks: Sequence[Tensor | None],
) -> Tensor:
    query_1HNE, key_1KNE, value_1KNE = attention.queries_keys_values(hidden_1ND, rotary)
    groups = attention.heads // attention.kv_heads
    # Repeated once for all rows; `attend` would do it for each.
    key_1HNE, value_1HNE = key_1KNE.repeat_interleave(groups, 1), value_1KNE.repeat_interleave(groups, 1)
    mixed_1NHE = hidden_1ND.new_zeros(1, hidden_1ND.shape[1], attention.heads, attention.head_dim)
    start = 0
    for length, mask_LL in zip(lengths, masks, strict=True):
        end = start + length
        mixed_1HLE = attend(
            query_1HNE[:, :, start:end], key_1HNE[:, :, start:end], value_1HNE[:, :, start:end], mask_LL
        )
        mixed_1NHE[:, start:end] = mixed_1HLE.transpose(1, 2)
        start = end
    mixed_1ND: Tensor = attention.output(mixed_1NHE.flatten(2))
    return mixed_1ND
