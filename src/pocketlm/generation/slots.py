"""The sequences in flight: their key-value slots and, beside each slot, its sampling state, all on the device.

Active sequences always fill the first `active` slots, so a decode step works on slices and copies no keys. Behind the
slots lies the *shelf*: prompts that were prefilled and wait, with their first logits, to be copied into slots.

Shape letters as in `model/transformer.py`; N sequences, P prompts on the shelf, M longest completion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketlm.generation.sampling import sample, stream_keys, uniforms
from pocketlm.model.cache import KeyValueCache
from pocketlm.model.transformer import Transformer

NO_TOKEN = -1


class Slots:
    """Decoding state of up to `slots` sequences of up to `length` tokens, `longest` of them new.

    Attributes:
        active: number of sequences in flight, which are slots 0 to active - 1.
        greedy: whether any of them may have temperature 0.
        generated_N, finished_N, stopped_N, outputs_NM, log_probabilities_NM: what the engine reads back.
    """

    def __init__(self, model: Transformer, slots: int, shelf: int, length: int, longest: int, stops: int) -> None:
        weight = model.head_weight_VD
        device = weight.device
        self.model = model
        self.slots, self.shelf, self.length, self.longest, self.stops = slots, shelf, length, longest, stops
        self.cache = KeyValueCache(model.settings, slots + shelf, length, device, weight.dtype)
        self.active = 0
        self.greedy = True
        self._logits_PV = torch.zeros(shelf, model.settings.vocabulary, device=device)
        self._tokens_N = torch.zeros(slots, dtype=torch.long, device=device)
        self._keys_N = torch.zeros(slots, dtype=torch.long, device=device)
        self._limits_N = torch.zeros(slots, dtype=torch.long, device=device)
        self._temperatures_N = torch.zeros(slots, device=device)
        self._stops_NW = torch.full((slots, stops), NO_TOKEN, device=device)
        self.generated_N = torch.zeros(slots, dtype=torch.long, device=device)
        self.finished_N = torch.zeros(slots, dtype=torch.bool, device=device)
        self.stopped_N = torch.zeros(slots, dtype=torch.bool, device=device)
        # The last column takes what a finished sequence writes until the host looks.
        self.outputs_NM = torch.zeros(slots, longest + 1, dtype=torch.long, device=device)
        self.log_probabilities_NM = torch.zeros(slots, longest + 1, device=device)

    def fits(self, slots: int, shelf: int, length: int, longest: int, stops: int) -> bool:
        """Whether this state can serve a workload of that size."""
        return all(
            have >= need
            for have, need in zip(
                (self.slots, self.shelf, self.length, self.longest, self.stops),
                (slots, shelf, length, longest, stops),
                strict=True,
            )
        )

    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        """Run prompts through the model together and lay them on the shelf, prompt p at place p."""
        device = self._logits_PV.device
        lengths_P = torch.tensor([len(prompt) for prompt in prompts])
        tokens_PT = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
        lengths_P, tokens_PT = lengths_P.to(device), tokens_PT.to(device)
        places = slice(self.slots, self.slots + len(prompts))
        hidden_PTD = self.model.hidden(tokens_PT, cache=self.cache.rows(places, lengths=lengths_P, fresh=True))
        last_PD = hidden_PTD[torch.arange(len(prompts), device=device), lengths_P - 1]
        self._logits_PV[: len(prompts)] = F.linear(last_PD, self.model.head_weight_VD).float()

    def admit(
        self,
        targets_N: Tensor,
        places_N: Tensor,
        extent: int,
        *,
        seeds_N: Tensor,
        samples_N: Tensor,
        limits_N: Tensor,
        temperatures_N: Tensor,
        stops_NW: Tensor,
    ) -> None:
        """Start sequences in free slots: copy their prompts from the shelf and draw their first tokens.

        Args:
            targets_N: free slots; together with the active ones they must fill the front again.
            places_N: place on the shelf of each one's prompt.
            extent: longest of these prompts in tokens.
            seeds_N, samples_N, limits_N, temperatures_N, stops_NW: what to sample, and how many tokens at most.
        """
        self.cache.copy(places_N + self.slots, targets_N, extent)
        self._keys_N[targets_N] = stream_keys(seeds_N, samples_N)
        self._limits_N[targets_N] = limits_N
        self._temperatures_N[targets_N] = temperatures_N
        self._stops_NW[targets_N] = NO_TOKEN
        self._stops_NW[targets_N, : stops_NW.shape[1]] = stops_NW
        for state in (self.generated_N, self.finished_N, self.stopped_N):
            state[targets_N] = 0
        self._draw(self._logits_PV[places_N], targets_N)

    def step(self, extent: int) -> None:
        """Decode one token for every active sequence; `extent` bounds the tokens that any of them holds afterwards."""
        front = slice(0, self.active)
        hidden_N1D = self.model.hidden(self._tokens_N[front, None], cache=self.cache.rows(front, extent=extent))
        # A finished sequence stands still: it overwrites one place of its own slot until the host frees it.
        self.cache.position[front] -= self.finished_N[front].long()
        self._draw(F.linear(hidden_N1D[:, 0], self.model.head_weight_VD).float(), front)

    def move(self, sources_N: Tensor, targets_N: Tensor, extent: int) -> None:
        """Move sequences into freed slots, with everything that belongs to them."""
        self.cache.copy(sources_N, targets_N, extent)
        for state in (
            *(self._tokens_N, self._keys_N, self._limits_N, self._temperatures_N, self._stops_NW),
            *(self.generated_N, self.finished_N, self.stopped_N, self.outputs_NM, self.log_probabilities_NM),
        ):
            state[targets_N] = state[sources_N]

    def _draw(self, logits_NV: Tensor, rows: slice | Tensor) -> None:
        """Draw the next token of some slots and note what follows from it."""
        generated_N, finished_N = self.generated_N[rows], self.finished_N[rows]
        uniforms_N = uniforms(self._keys_N[rows], generated_N)
        tokens_N, log_probabilities_N = sample(logits_NV, self._temperatures_N[rows], uniforms_N, self.greedy)
        slots_N = torch.arange(self.slots, device=tokens_N.device)[rows]
        column_N = generated_N.masked_fill(finished_N, self.longest)
        self._tokens_N[rows] = tokens_N
        self.outputs_NM[slots_N, column_N] = tokens_N
        self.log_probabilities_NM[slots_N, column_N] = log_probabilities_N
        generated_N = generated_N + ~finished_N
        stopped_N = ~finished_N & (tokens_N.unsqueeze(1) == self._stops_NW[rows]).any(1)
        self.generated_N[rows] = generated_N
        self.stopped_N[rows] |= stopped_N
        self.finished_N[rows] = finished_N | stopped_N | (generated_N >= self._limits_N[rows])
