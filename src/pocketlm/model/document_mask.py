"""Rows that pack several documents, kept apart: positions that start anew and a mask that ends at the border.

Shape letters: B rows, T positions.
"""

import torch
from torch import Tensor


def document_mask(tokens_BT: Tensor, border: int) -> tuple[Tensor, Tensor]:
    """Positions [B, T] and mask [B, 1, T, T] (True: may attend) for `Transformer.hidden`.

    A document begins at its `border` token, as a text does at inference; what stands in a row before its first border
    is a document too. Each token attends to itself and to the earlier tokens of its document. The last token of a
    document has the border of the next as its target.

    The mask takes a byte for each pair of positions, 4 MB for a row of 2048, and attention makes a bias of the compute
    type of it; FlashAttention takes no mask, so that another back end serves.
    """
    length = tokens_BT.shape[1]
    begins_BT = tokens_BT == border
    document_BT = begins_BT.cumsum(1)
    index_T = torch.arange(length, device=tokens_BT.device)
    first_BT = torch.where(begins_BT, index_T, 0).cummax(1).values
    same_BTT = document_BT.unsqueeze(2) == document_BT.unsqueeze(1)
    return index_T - first_BT, (same_BTT & (index_T <= index_T.unsqueeze(1))).unsqueeze(1)
