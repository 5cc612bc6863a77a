"""The decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU; no biases.

Shape letters: B batch, T query positions, S key positions, D width, H query heads, K key-value heads, E channels of a
head, C = E / 2 rotated pairs, F feed-forward width, V vocabulary, L layers.

Does not cover: dropout, sliding windows, mixture of experts.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketlm.model.cache import Blocks, CacheLayer, CacheRows
from pocketlm.model.config import ModelSettings
from pocketlm.model.cpu_attention import CausalAttention
from pocketlm.model.operators import rms_norm, rotary_tables, rotate, swiglu


class Transformer(nn.Module):
    """Decoder-only language model with fused query-key-value and gate-up projections.

    `hidden` returns the stream after the final norm, so that the loss can meet the head in chunks (`model/loss.py`);
    `forward` returns the logits.
    """

    cosine_SC: Tensor
    sine_SC: Tensor

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(settings.vocabulary, settings.width)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.final_norm = RMSNorm(settings.width, settings.norm_epsilon)
        self.head = None if settings.tie_embeddings else _linear(settings.width, settings.vocabulary)
        self.packed_head: nn.Module | None = None
        """The head laid out anew for decoding (`packing.py`); None computes with `head_weight_VD`."""
        self.decode_step: Callable[[Tensor, CacheRows], Tensor | None] | None = None
        """Takes decode steps of few rows (`decode_step.py`), and gives None for others."""
        cosine_SC, sine_SC = rotary_tables(
            settings.context, settings.head_dim, settings.rope_theta, settings.rope_scaling
        )
        self.register_buffer("cosine_SC", cosine_SC, persistent=False)
        self.register_buffer("sine_SC", sine_SC, persistent=False)

    @property
    def head_weight_VD(self) -> Tensor:
        """Weight of the output head; the embedding table itself when the two are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask_B1TS: Tensor | None = None,
        cache: CacheRows | None = None,
    ) -> Tensor:
        """Stream after the final norm, [B, T, D].

        Without a mask attention is causal; a boolean mask says True where a query may attend. Without positions the
        row starts at 0. `cache` (`KeyValueCache.rows`) brings its own positions and mask, stores the new keys and
        values and advances by the tokens given.
        """
        if cache is not None and self.decode_step is not None:
            decoded_B1D = self.decode_step(tokens_BT, cache)
            if decoded_B1D is not None:
                return decoded_B1D
        if cache is not None:
            positions_BT, mask_B1TS = cache.begin(tokens_BT.shape[1])
        if positions_BT is None:
            rotary = self.cosine_SC[: tokens_BT.shape[1], None], self.sine_SC[: tokens_BT.shape[1], None]
        else:
            rotary = self.cosine_SC[positions_BT].unsqueeze(2), self.sine_SC[positions_BT].unsqueeze(2)
        hidden_BTD = self.embedding(tokens_BT)
        for layer, block in enumerate(self.blocks):
            hidden_BTD = block(hidden_BTD, rotary, mask_B1TS, None if cache is None else cache.layer(layer))
        if cache is not None:
            cache.advance()
        return self.final_norm(hidden_BTD)

    @property
    def known_head_VD(self) -> Tensor:
        """The head's rows that belong to tokens: of what can be drawn, without the rows that pad a vocabulary."""
        known = self.settings.known_tokens
        return self.head_weight_VD if known == self.settings.vocabulary else self.head_weight_VD[:known]

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask_B1TS: Tensor | None = None,
        cache: CacheRows | None = None,
    ) -> Tensor:
        """Logits, [B, T, V]; arguments as in `hidden`."""
        return self.logits(self.hidden(tokens_BT, positions_BT, mask_B1TS, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of final hidden states, [..., D] to [..., V]."""
        return F.linear(hidden, self.head_weight_VD) if self.packed_head is None else self.packed_head(hidden)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fill all weights from one seed: the same seed gives the same bits on every machine with the same torch.

        Matrices start at normal(0, 1/sqrt(fan_in)); the projections back into the residual stream are divided by
        sqrt(2 * layers) so that its variance does not grow with depth (GPT-2, section 2.3); embeddings at 0.02.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            deviation = 0.02 if name in ("embedding.weight", "head.weight") else 1 / math.sqrt(parameter.shape[1])
            if name.endswith((".output.weight", ".down.weight")):
                deviation /= math.sqrt(2 * self.settings.layers)
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, deviation, generator=generator))


class Block(nn.Module):
    """One layer: attention, then the gated feed-forward network, each behind a norm and added to the stream."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.attention_norm = RMSNorm(settings.width, settings.norm_epsilon)
        self.attention = Attention(settings)
        self.mlp_norm = RMSNorm(settings.width, settings.norm_epsilon)
        self.mlp = FeedForward(settings)

    def forward(
        self,
        hidden_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask_B1TS: Tensor | None,
        cache: CacheLayer | None,
    ) -> Tensor:
        hidden_BTD = hidden_BTD + self.attention(self.attention_norm(hidden_BTD), rotary, mask_B1TS, cache)
        return hidden_BTD + self.mlp(self.mlp_norm(hidden_BTD))


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245) with rotary positions; `qwen3` normalises query and key heads."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = settings.heads, settings.kv_heads, settings.head_dim
        self.qkv = _linear(settings.width, (settings.heads + 2 * settings.kv_heads) * settings.head_dim)
        self.output = _linear(settings.heads * settings.head_dim, settings.width)
        normalised = settings.layout == "qwen3"
        self.query_norm = RMSNorm(settings.head_dim, settings.norm_epsilon) if normalised else None
        self.key_norm = RMSNorm(settings.head_dim, settings.norm_epsilon) if normalised else None

    def forward(
        self,
        hidden_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask_B1TS: Tensor | None,
        cache: CacheLayer | None,
    ) -> Tensor:
        batch, length, _ = hidden_BTD.shape
        query_BHTE, key_BKSE, value_BKSE = self.queries_keys_values(hidden_BTD, rotary)
        if cache is not None:
            key_BKSE, value_BKSE = cache.store(key_BKSE, value_BKSE)
        if cache is not None and mask_B1TS is not None and cache.blocks:
            mixed_BHTE = _attend_in_blocks(query_BHTE, key_BKSE, value_BKSE, mask_B1TS, cache.blocks)
        else:
            mixed_BHTE = attend(query_BHTE, key_BKSE, value_BKSE, mask_B1TS)
        mixed_BTHE = mixed_BHTE.transpose(1, 2)
        return self.output(mixed_BTHE.reshape(batch, length, self.heads * self.head_dim))

    def queries_keys_values(self, hidden_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What attention compares and mixes, positions turned in: [B, H, T, E], [B, K, T, E] and [B, K, T, E]."""
        batch, length, _ = hidden_BTD.shape
        heads_BTNE = self.qkv(hidden_BTD).view(batch, length, self.heads + 2 * self.kv_heads, self.head_dim)
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        if self.query_norm is not None and self.key_norm is not None:
            query_BTHE, key_BTKE, value_BTKE = heads_BTNE.split(sizes, 2)
            heads_BTNE = torch.cat([self.query_norm(query_BTHE), self.key_norm(key_BTKE), value_BTKE], 2)
        heads_BTNE = rotate(heads_BTNE, *rotary, rotated=self.heads + self.kv_heads)
        query_BTHE, key_BTKE, value_BTKE = heads_BTNE.split(sizes, 2)
        return query_BTHE.transpose(1, 2), key_BTKE.transpose(1, 2), value_BTKE.transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.gate_up = _linear(settings.width, 2 * settings.ffn_width)
        self.down = _linear(settings.ffn_width, settings.width)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(hidden_BTD)))


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain over the last dimension (arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self.weight, self.epsilon)


def attend(query_BHTE: Tensor, key_BKSE: Tensor, value_BKSE: Tensor, mask_B1TS: Tensor | None) -> Tensor:
    """Scaled dot-product attention, [B, H, T, E]; causal without a mask; K may divide H (grouped queries)."""
    lowered = query_BHTE.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    decoding = query_BHTE.shape[2] == 1 and not torch.is_grad_enabled()  # reads each key once: half the bytes count
    if query_BHTE.device.type == "cpu" and lowered and not decoding:
        return _attend_in_bfloat16_on_cpu(query_BHTE, key_BKSE, value_BKSE, mask_B1TS)
    batch, heads, length, channels = query_BHTE.shape
    groups = heads // key_BKSE.shape[1]
    if groups == 1:
        return F.scaled_dot_product_attention(
            query_BHTE, key_BKSE, value_BKSE, attn_mask=mask_B1TS, is_causal=mask_B1TS is None
        )
    if length == 1:
        # The queries of a group see the same keys: one attention of `groups` rows, no copy of keys and values.
        grouped_BKGE = query_BHTE.reshape(batch, heads // groups, groups, channels)
        return F.scaled_dot_product_attention(grouped_BKGE, key_BKSE, value_BKSE, attn_mask=mask_B1TS).view(
            batch, heads, 1, channels
        )
    if not groups_are_fused(query_BHTE.device, query_BHTE.dtype, mask_B1TS is not None):
        key_BKSE, value_BKSE = key_BKSE.repeat_interleave(groups, 1), value_BKSE.repeat_interleave(groups, 1)
        groups = 1
    return F.scaled_dot_product_attention(
        query_BHTE, key_BKSE, value_BKSE, attn_mask=mask_B1TS, is_causal=mask_B1TS is None, enable_gqa=groups > 1
    )


def _attend_in_blocks(
    query_BHTE: Tensor, key_BKSE: Tensor, value_BKSE: Tensor, mask_B1TS: Tensor, blocks: Blocks
) -> Tensor:
    """Attention over keys of the cache, of which each block of rows reads its own extent."""
    mixed = [
        attend(
            query_BHTE[first:end],
            key_BKSE[first:end, :, :extent],
            value_BKSE[first:end, :, :extent],
            mask_B1TS[first:end, :, :, :extent],
        )
        for first, end, extent in blocks
    ]
    return torch.cat(mixed)


def _attend_in_bfloat16_on_cpu(
    query_BHTE: Tensor, key_BKSE: Tensor, value_BKSE: Tensor, mask_B1TS: Tensor | None
) -> Tensor:
    """Only the products of compiled causal attention are in bfloat16: torch's fused kernel is faster in float32.

    In torch 2.13 that holds for forwards and backwards together; forwards alone bfloat16 is faster.
    """
    if mask_B1TS is None and torch.compiler.is_compiling():
        query_BHTE, key_BKSE, value_BKSE = (heads.bfloat16() for heads in (query_BHTE, key_BKSE, value_BKSE))
        groups = query_BHTE.shape[1] // key_BKSE.shape[1]
        return CausalAttention.apply(
            query_BHTE, key_BKSE.repeat_interleave(groups, 1), value_BKSE.repeat_interleave(groups, 1)
        )
    with torch.autocast("cpu", enabled=False):
        mixed_BHTE = attend(query_BHTE.float(), key_BKSE.float(), value_BKSE.float(), mask_B1TS)
    return mixed_BHTE.to(query_BHTE.dtype)


def groups_are_fused(device: torch.device, dtype: torch.dtype, masked: bool) -> bool:
    """Whether a fused attention kernel takes grouped queries as they are; elsewhere keys and values are repeated.

    The CPU kernel does not know them (torch 2.13), and on CUDA neither does the one that serves float32 and masks; the
    fallback of both is half as fast as repeating, or needs memory that grows as the square of the length.
    """
    return device.type == "cuda" and not masked and dtype in (torch.bfloat16, torch.float16)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)
