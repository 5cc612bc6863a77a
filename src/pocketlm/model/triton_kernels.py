"""Triton kernel of the loss: a chunk of logits becomes losses and gradients in place. Imported where Triton is there.

Shape letters: C rows of one chunk, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_LARGEST_BLOCK = 8192


def fused_row_losses(
    logits_CV: Tensor, targets_C: Tensor, ignore_index: int, z_loss: float, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What `plain_row_losses` computes, in one launch: the gradient lies over the logits, in their type.

    Memory holds each logit once and passes it once in each direction: the second read of a row (98 kB at 49,152 tokens
    in bf16) finds it in the cache. Arithmetic is float32. A target outside of the vocabulary makes its loss NaN.
    """
    rows, vocabulary = logits_CV.shape
    losses_C = torch.empty(rows, dtype=torch.float32, device=logits_CV.device)
    penalties_C = torch.empty_like(losses_C)
    block = min(triton.next_power_of_2(vocabulary), _LARGEST_BLOCK)
    with torch.cuda.device_of(logits_CV):
        _row_losses_kernel[(rows,)](
            logits_CV,
            targets_C,
            losses_C,
            penalties_C,
            logits_CV.stride(0),
            vocabulary,
            ignore_index,
            z_loss,
            BLOCK=block,
            GRADIENT=gradient,
            num_warps=max(1, min(16, block // 512)),
        )
    return losses_C, penalties_C, logits_CV


@triton.jit
def _row_losses_kernel(  # type: ignore[no-untyped-def]
    logits,
    targets,
    losses,
    penalties,
    row_stride,
    vocabulary,
    ignore_index,
    z_loss,
    BLOCK: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    target = tl.load(targets + row)
    columns = tl.arange(0, BLOCK)
    # Running maximum and sum of exponentials (arXiv 1805.02867). The target's logit is picked up on the way: a load of
    # its own could meet the gradient that is written below.
    largest = -3.0e38
    total = 0.0
    chosen = 0.0
    for start in range(0, vocabulary, BLOCK):
        at = start + columns
        part = tl.load(logits + at, mask=at < vocabulary, other=-float("inf")).to(tl.float32)
        chosen += tl.sum(tl.where(at == target, part, 0.0))
        raised = tl.maximum(largest, tl.max(part))
        total = total * tl.exp(largest - raised) + tl.sum(tl.exp(part - raised))
        largest = raised
    # Log-sum-exp in two parts, for their sum would round away digits of small differences between large logits.
    rest = tl.log(total)
    normaliser = largest + rest
    counted = target != ignore_index
    chosen = tl.where((target >= 0) & (target < vocabulary), chosen, float("nan"))
    tl.store(losses + row, tl.where(counted, largest - chosen + rest, 0.0))
    tl.store(penalties + row, tl.where(counted, z_loss * normaliser * normaliser, 0.0))
    if GRADIENT:
        scale = tl.where(counted, 1.0 + 2.0 * z_loss * normaliser, 0.0)
        one = tl.where(counted, 1.0, 0.0)
        for start in range(0, vocabulary, BLOCK):
            at = start + columns
            part = tl.load(logits + at, mask=at < vocabulary, other=-float("inf")).to(tl.float32)
            delta = tl.exp(part - largest - rest) * scale - tl.where(at == target, one, 0.0)
            tl.store(logits + at, delta, mask=at < vocabulary)
