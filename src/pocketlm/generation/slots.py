"""The sequences in flight: their key-value slots and, beside each slot, its sampling state, all on the device.

Active sequences always fill the first `active` slots, so a decode step works on slices and copies no keys. Behind the
slots lies the *shelf*: prompts that were prefilled and wait, with their first logits, to be copied into slots.

A sequence *stands still* when it has finished, when it drew a token that a tool has to answer, or when its constraint
has not yet said what may follow its last token: steps then run over it and change nothing, until the host looks.

Shape letters as in `model/transformer.py`; N sequences, P prompts on the shelf, M longest completion, W stop tokens,
U triggers of a tool, O likeliest tokens of a place, C tokens that the host reads at once, I words of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from pocketlm.generation.filters import Filters, keep_likely, penalise_repetition
from pocketlm.generation.sampling import sample, scale, stream_keys, uniforms
from pocketlm.model.cache import Blocks, KeyValueCache
from pocketlm.model.transformer import Transformer

NO_TOKEN = -1


@dataclass(frozen=True)
class Size:
    """How much a workload needs: sequences and prompts at once, tokens of a sequence and new ones among them, stop
    tokens and triggers of a request, whether the tokens seen are remembered (1) or not (0), whether there are masks of
    constraints, and how many token ids the odds of a place name, the drawn one included (0: no odds)."""

    slots: int
    shelf: int
    length: int
    longest: int
    stops: int
    triggers: int
    seen: int
    masks: int = 0
    odds: int = 0

    def holds(self, other: Size) -> bool:
        """Whether state of this size can serve a workload of the other."""
        return all(getattr(self, one.name) >= getattr(other, one.name) for one in fields(self))


@dataclass(frozen=True)
class Features:
    """What the sequences in flight use; the rest is left out of their steps.

    Attributes:
        greedy: some request has temperature 0.
        penalty: some request penalises repetition.
        tools: some request has a tool.
        constraints: some request has a constraint.
        odds: some request asks for the odds.
    """

    greedy: bool = True
    penalty: bool = False
    tools: bool = False
    constraints: bool = False
    odds: bool = False
    filters: Filters = field(default_factory=Filters)


@dataclass(frozen=True)
class Orders:
    """How the samples of each prompt on the shelf are drawn, on the device. `NO_TOKEN` fills stops and triggers up."""

    seeds_P: Tensor
    limits_P: Tensor
    temperatures_P: Tensor
    top_k_P: Tensor
    top_p_P: Tensor
    min_p_P: Tensor
    penalties_P: Tensor
    stops_PW: Tensor
    triggers_PU: Tensor


class OddsReadout(NamedTuple):
    """Log-probabilities of the tokens taken and of the likeliest ones (`requests.Odds`)."""

    drawn_NC: numpy.ndarray
    tokens_NCO: numpy.ndarray
    log_probabilities_NCO: numpy.ndarray


class Readout(NamedTuple):
    """What some sequences wrote at some places, on the host; what lies beyond a sequence's last token means nothing.

    `forced_NC` is None without tools, `odds` if nobody asked for them.
    """

    tokens_NC: numpy.ndarray
    log_probabilities_NC: numpy.ndarray
    forced_NC: numpy.ndarray | None
    odds: OddsReadout | None


class Slots:
    """Decoding state.

    Attributes:
        active: number of sequences in flight, which are slots 0 to active - 1.
        features: what the sequences in flight and on the shelf use.
        generated_N, stopped_N, outputs_NM, log_probabilities_NM, forced_NM: what the host reads back. `forced_NM` holds
            the tokens that a tool put in at their places, else `NO_TOKEN`.
        outdated_N: whether a constrained sequence has drawn a token since it was given its mask.
    """

    def __init__(self, model: Transformer, size: Size) -> None:
        weight = model.head_weight_VD
        self.model, self.size, self.device = model, size, weight.device
        self.cache = KeyValueCache(model.settings, size.slots + size.shelf, size.length, self.device, weight.dtype)
        self.active = 0
        self.features = Features()
        self._logits_PV = self._full(0.0, size.shelf, model.settings.vocabulary)
        self._shelf_seen_PV = self._full(False, size.shelf * size.seen, model.settings.vocabulary)
        self._orders: Orders | None = None
        self._tokens_N = self._full(0, size.slots)
        self._keys_N = self._full(0, size.slots)
        self._limits_N = self._full(0, size.slots)
        self._temperatures_N = self._full(0.0, size.slots)
        self._top_k_N = self._full(0, size.slots)
        self._top_p_N = self._full(1.0, size.slots)
        self._min_p_N = self._full(0.0, size.slots)
        self._penalties_N = self._full(1.0, size.slots)
        self._stops_NW = self._full(NO_TOKEN, size.slots, size.stops)
        self._triggers_NU = self._full(NO_TOKEN, size.slots, size.triggers)
        self._seen_NV = self._full(False, size.slots * size.seen, model.settings.vocabulary)
        self.generated_N = self._full(0, size.slots)
        self.finished_N = self._full(True, size.slots)
        self.stopped_N = self._full(False, size.slots)
        self.asking_N = self._full(False, size.slots)
        self.outdated_N = self._full(False, size.slots)
        self._constrained_N = self._full(False, size.slots)
        self._forbidden_NV = self._full(False, size.slots * size.masks, model.settings.vocabulary)
        # The last column takes what a sequence that stands still writes until the host looks.
        self.outputs_NM = self._full(0, size.slots, size.longest + 1)
        self.log_probabilities_NM = self._full(0.0, size.slots, size.longest + 1)
        self.forced_NM = self._full(NO_TOKEN, size.slots, size.longest + 1 if size.triggers else 0)
        likeliest = min(max(size.odds - 1, 0), model.settings.known_tokens)
        self._odds_NM = self._full(0.0, size.slots, size.longest + 1 if size.odds else 0)
        self._likeliest_NMO = self._full(0, *self._odds_NM.shape, likeliest).int()
        self._likeliest_odds_NMO = self._full(0.0, *self._odds_NM.shape, likeliest)

    def prefill(self, prompts: Sequence[Sequence[int]], orders: Orders) -> None:
        """Run prompts through the model together and lay them on the shelf, prompt p at place p."""
        lengths_P = torch.tensor([len(prompt) for prompt in prompts])
        tokens_PT = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
        lengths_P, tokens_PT = lengths_P.to(self.device), tokens_PT.to(self.device)
        places_P = torch.arange(len(prompts), device=self.device)
        rows = slice(self.size.slots, self.size.slots + len(prompts))
        hidden_PTD = self.model.hidden(tokens_PT, cache=self.cache.rows(rows, lengths=lengths_P, fresh=True))
        # Padding repeats a prompt's own first token.
        padding_PT = torch.arange(tokens_PT.shape[1], device=self.device) >= lengths_P.unsqueeze(1)
        self._lay(
            hidden_PTD[places_P, lengths_P - 1], torch.where(padding_PT, tokens_PT[:, :1], tokens_PT), places_P, orders
        )

    def prefill_piece(self, prompt: Sequence[int], start: int, end: int, orders: Orders) -> None:
        """Run tokens `start` to `end` of one prompt, behind its earlier ones at the shelf's first place."""
        tokens_1T = torch.tensor([list(prompt[start:end])]).to(self.device)
        rows = slice(self.size.slots, self.size.slots + 1)
        hidden_1TD = self.model.hidden(tokens_1T, cache=self.cache.rows(rows, fresh=start == 0, extent=end))
        if end == len(prompt):
            whole_1T = torch.tensor([list(prompt)]).to(self.device)
            self._lay(hidden_1TD[:, -1], whole_1T, torch.zeros(1, dtype=torch.long, device=self.device), orders)

    def _lay(self, last_PD: Tensor, tokens_PT: Tensor, places_P: Tensor, orders: Orders) -> None:
        """Keep beside the prompts' keys what their samples start from."""
        self._orders = orders
        self._logits_PV[: len(last_PD)] = self.model.logits(last_PD).float()
        if self.features.penalty:
            self._shelf_seen_PV[: len(last_PD)] = False
            self._shelf_seen_PV[places_P.unsqueeze(1), tokens_PT] = True

    def admit(
        self,
        targets_N: Tensor,
        places_N: Tensor,
        samples_N: Tensor,
        extent: int,
        constrained: Sequence[int] = (),
        masks: Sequence[numpy.ndarray] = (),
    ) -> None:
        """Start sequences in free slots: copy their prompts from the shelf and draw their first tokens.

        Args:
            targets_N: free slots; together with the active ones they must fill the front again.
            places_N, samples_N: place on the shelf of each one's prompt, and which of its samples it is.
            extent: longest of these prompts in tokens.
            constrained, masks: those of the slots that a constraint rules, and what it allows (`allow`).
        """
        orders = self._orders
        if orders is None:
            raise RuntimeError("admit: no prompt was prefilled")
        self.cache.copy(places_N + self.size.slots, targets_N, extent)
        self._keys_N[targets_N] = stream_keys(orders.seeds_P[places_N], samples_N)
        for state, given in (
            (self._limits_N, orders.limits_P),
            (self._temperatures_N, orders.temperatures_P),
            (self._top_k_N, orders.top_k_P),
            (self._top_p_N, orders.top_p_P),
            (self._min_p_N, orders.min_p_P),
            (self._penalties_N, orders.penalties_P),
        ):
            state[targets_N] = given[places_N]
        for lists, given in ((self._stops_NW, orders.stops_PW), (self._triggers_NU, orders.triggers_PU)):
            lists[targets_N] = NO_TOKEN
            lists[targets_N, : given.shape[1]] = given[places_N]
        for state in (self.generated_N, self.finished_N, self.stopped_N, self.asking_N):
            state[targets_N] = 0
        # Not only if a feature is on: it may come on while these sequences run.
        if self.size.triggers:
            self.forced_NM[targets_N] = NO_TOKEN
        if self.size.masks:
            for state in (self._forbidden_NV, self._constrained_N, self.outdated_N):
                state[targets_N] = False
        if constrained:
            rows_N = torch.tensor(constrained, device=self.device)
            self._constrained_N[rows_N] = True
            self.allow(rows_N, masks)
        if self.features.penalty:
            self._seen_NV[targets_N] = self._shelf_seen_PV[places_N]
        self._draw(self._logits_PV[places_N], targets_N)

    def allow(self, rows_N: Tensor, masks: Sequence[numpy.ndarray]) -> None:
        """Set what constrained sequences may draw next, in words of 32 tokens (`Constraint.allowed`), and let them go
        on."""
        bits_NV = numpy.unpackbits(numpy.stack(masks).astype("<i4").view(numpy.uint8), axis=1, bitorder="little")
        forbidden_NV = torch.from_numpy(bits_NV[:, : self._forbidden_NV.shape[1]]).to(self.device) == 0
        self._forbidden_NV[rows_N] = forbidden_NV
        self.outdated_N[rows_N] = False

    def steps(self, count: int, held: Blocks) -> None:
        """Decode `count` tokens for the first slots; those of them that stand still are left as they are.

        `held`: blocks of slots, and how many tokens any of the block that goes on has in the cache before. Waits for
        nothing on the host, and its shapes follow from the arguments: on a GPU it runs as a graph (`graphs.py`).
        """
        front = slice(0, held[-1][1])
        for step in range(1, count + 1):
            blocks = [(first, end, min(most + step, self.size.length)) for first, end, most in held]
            extent = max(extent for _, _, extent in blocks)
            rows = self.cache.rows(front, extent=extent, blocks=blocks if len(blocks) > 1 else ())
            hidden_N1D = self.model.hidden(self._tokens_N[front, None], cache=rows)
            # One that stands still writes the same keys at the same place again.
            self.cache.position[front] -= self._still(front).long()
            self._draw(self.model.logits(hidden_N1D[:, 0]).float(), front)

    def look(self) -> Tensor:
        """Finished, by a stop token, asking a tool, and number of new tokens of the active sequences, [4, N] int64 on
        the host."""
        states = self.finished_N, self.stopped_N, self.asking_N, self.generated_N
        return torch.stack([state[: self.active].long() for state in states]).cpu()

    def read(self, rows_N: Tensor, starts_N: Tensor, count: int) -> Readout:
        """What each of some sequences wrote at `count` places from its start on."""
        columns_NC = starts_N.unsqueeze(1) + torch.arange(count, device=self.device)
        places = rows_N.unsqueeze(1), columns_NC.clamp_(max=self.size.longest)

        def host(state: Tensor) -> numpy.ndarray:
            found: numpy.ndarray = state[places].cpu().numpy()
            return found

        forced_NC = host(self.forced_NM) != NO_TOKEN if self.features.tools else None
        odds = None
        if self.features.odds:
            odds = OddsReadout(host(self._odds_NM), host(self._likeliest_NMO), host(self._likeliest_odds_NMO))
        return Readout(host(self.outputs_NM), host(self.log_probabilities_NM), forced_NC, odds)

    def answer(self, slot: int, generated: int, tokens: Sequence[int]) -> None:
        """Put a tool's answer behind the `generated` tokens of a slot that asks, and let it go on."""
        room = self.forced_NM.shape[1] - 1 - generated
        forced = torch.tensor(tokens[:room], dtype=torch.long)
        self.forced_NM[slot, generated : generated + len(forced)] = forced.to(self.device)
        self.asking_N[slot] = False

    def move(self, sources_N: Tensor, targets_N: Tensor, extent: int) -> None:
        """Move sequences into freed slots, with everything that belongs to them."""
        self.cache.copy(sources_N, targets_N, extent)
        for state in (
            *(self._tokens_N, self._keys_N, self._limits_N, self._temperatures_N, self._stops_NW, self._triggers_NU),
            *(self._top_k_N, self._top_p_N, self._min_p_N, self._penalties_N),
            *(self.generated_N, self.finished_N, self.stopped_N, self.asking_N),
            *(self.outputs_NM, self.log_probabilities_NM, self.forced_NM),
        ):
            state[targets_N] = state[sources_N]
        if self.size.masks:
            for state in (self._forbidden_NV, self._constrained_N, self.outdated_N):
                state[targets_N] = state[sources_N]
        if self.features.odds:
            for state in (self._odds_NM, self._likeliest_NMO, self._likeliest_odds_NMO):
                state[targets_N] = state[sources_N]
        if self.features.penalty:
            self._seen_NV[targets_N] = self._seen_NV[sources_N]

    def clean(self, rows_N: Tensor) -> None:
        """Forget what slots hold that may not be numbers: attention gives what it masks the weight 0, and 0 times
        not-a-number is not a number. Places on the shelf need none of it: they are copied as far as they were filled.
        """
        for memory in (*self.cache.keys, *self.cache.values):
            memory[rows_N] = 0
        self.cache.position[rows_N] = 0

    def _still(self, rows: slice | Tensor) -> Tensor:
        still_N = self.finished_N[rows] | self.asking_N[rows]
        return still_N | self.outdated_N[rows] if self.features.constraints else still_N

    def _draw(self, logits_NV: Tensor, rows: slice | Tensor) -> None:
        """Draw the next token of some slots and note what follows from it."""
        slots_N = torch.arange(self.size.slots, device=self.device)[rows]
        generated_N, finished_N, asking_N = self.generated_N[rows], self.finished_N[rows], self.asking_N[rows]
        still_N = self._still(rows)
        column_N = generated_N.masked_fill(still_N, self.size.longest)
        uniforms_N = uniforms(self._keys_N[rows], generated_N)
        greedy_N = self._temperatures_N[rows] == 0 if self.features.greedy else None
        if self.model.settings.known_tokens < logits_NV.shape[1]:
            logits_NV[:, self.model.settings.known_tokens :] = -torch.inf
        odds_NV = torch.log_softmax(logits_NV, -1) if self.features.odds else None  # before they are shaped in place
        tokens_N, log_probabilities_N = sample(self._shaped(logits_NV, rows), uniforms_N, greedy_N)
        drawn_N = ~still_N
        if self.features.tools:
            forced_N = self.forced_NM[slots_N, column_N]
            drawn_N &= forced_N == NO_TOKEN
            tokens_N = torch.where(forced_N == NO_TOKEN, tokens_N, forced_N)
            log_probabilities_N = torch.where(forced_N == NO_TOKEN, log_probabilities_N, 0.0)
        tokens_N = torch.where(still_N, self._tokens_N[rows], tokens_N)
        self._tokens_N[rows] = tokens_N
        self.outputs_NM[slots_N, column_N] = tokens_N
        self.log_probabilities_NM[slots_N, column_N] = log_probabilities_N
        if odds_NV is not None:
            self._odds_NM[slots_N, column_N] = odds_NV.gather(1, tokens_N.unsqueeze(1)).squeeze(1)
            likeliest_odds_NO, likeliest_NO = odds_NV.topk(self._likeliest_NMO.shape[2])
            self._likeliest_NMO[slots_N, column_N] = likeliest_NO.int()
            self._likeliest_odds_NMO[slots_N, column_N] = likeliest_odds_NO
        if self.features.penalty:
            self._seen_NV[slots_N, tokens_N] = True
        generated_N = generated_N + ~still_N
        stopped_N = ~still_N & (tokens_N.unsqueeze(1) == self._stops_NW[rows]).any(1)
        finished_N = finished_N | stopped_N | (generated_N >= self._limits_N[rows])
        self.generated_N[rows] = generated_N
        self.stopped_N[rows] |= stopped_N
        self.finished_N[rows] = finished_N
        if self.features.constraints:
            self.outdated_N[rows] |= ~still_N & self._constrained_N[rows] & ~finished_N
        if self.features.tools:
            triggered_N = (tokens_N.unsqueeze(1) == self._triggers_NU[rows]).any(1)
            self.asking_N[rows] = asking_N | (drawn_N & triggered_N & ~finished_N)

    def _shaped(self, logits_NV: Tensor, rows: slice | Tensor) -> Tensor:
        """Logits after masks, penalty, temperature and filters."""
        if self.features.constraints:
            logits_NV.masked_fill_(self._forbidden_NV[rows], -torch.inf)
        if self.features.penalty:
            logits_NV = penalise_repetition(logits_NV, self._seen_NV[rows], self._penalties_N[rows])
        logits_NV = scale(logits_NV, self._temperatures_N[rows])
        if self.features.filters:
            top_k_N, top_p_N, min_p_N = (state[rows] for state in (self._top_k_N, self._top_p_N, self._min_p_N))
            logits_NV = keep_likely(logits_NV, top_k_N, top_p_N, min_p_N, self.features.filters)
        return logits_NV

    def _full(self, value: float, *shape: int) -> Tensor:
        kind = {bool: torch.bool, int: torch.long, float: torch.float32}[type(value)]
        return torch.full(shape, value, dtype=kind, device=self.device)
