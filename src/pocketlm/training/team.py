"""One training stage on several ranks: rank 0 gives orders, and every rank carries each out at the same time.

An order is a method of `Member` and its arguments. Rank 0 cuts the rows of a step and sends every rank its own, so
that all ranks together see the batch that one process would see, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from pocketlm.errors import RankLost
from pocketlm.model.config import ModelSettings
from pocketlm.model.storage import load_weights
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Runtime
from pocketlm.training.batches import Batch
from pocketlm.training.gradients import Share
from pocketlm.training.objective import Objective
from pocketlm.training.placement import Placement, Replicated, Sharded
from pocketlm.training.ranks import Rank
from pocketlm.training.settings import TrainingSettings
from pocketlm.training.update import Order, State, Update

EXCHANGE = timedelta(minutes=30)
"""Longest that ranks may be apart within a step: one may compile while others wait."""
WAIT = timedelta(days=30)
"""Longest wait for an order: rank 0 may score or write. A rank that dies is noticed at once, by its connections."""


@dataclass(frozen=True)
class Stage:
    """What a rank needs to know to take part in a training stage; weights and rows come later."""

    name: str
    model: ModelSettings
    objective: Objective
    settings: TrainingSettings
    runtime: Runtime


class Group:
    """The processes of one training stage, connected."""

    def __init__(self, store: Any, rank: Rank, device: torch.device):
        self.rank, self.device = rank, device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl",
            store=store,
            rank=rank.number,
            world_size=rank.size,
            timeout=EXCHANGE,
        )
        self._orders = distributed.new_group(backend="gloo", timeout=WAIT)

    def send(self, orders: list[Any]) -> None:
        """On rank 0: one order for each rank (its own is not looked at)."""
        distributed.scatter_object_list([None], orders, src=0, group=self._orders)

    def receive(self) -> Any:
        """On the others: the next order."""
        order: list[Any] = [None]
        distributed.scatter_object_list(order, None, src=0, group=self._orders)
        return order[0]

    def close(self) -> None:
        """Part from the others."""
        distributed.destroy_process_group()


class Member(Update):
    """The update of one rank among several; all ranks call the same methods in the same order."""

    def __init__(self, model: Transformer, stage: Stage, context: Context):
        sharded = stage.runtime.parallel == "fsdp"
        placement: Placement
        if sharded:
            # Rank 0 keeps a whole model beside its share, to score, to sample from and to hand out in the end.
            whole = distributed.get_rank() == 0
            replica = Transformer(stage.model).to(model.head_weight_VD.device) if whole else model
            wanted = stage.runtime.compile
            placement = Sharded(replica, replica.head_weight_VD.device.type == "cuda" if wanted is None else wanted)
        else:
            placement = Replicated(model)
        super().__init__(model, stage.objective, stage.settings, context, placement)

    def collect(self) -> State:
        """The whole state on the host of rank 0, gathered weight by weight; nothing on the others."""
        own: State = {
            "model": self.placement.weights,
            "optimizer": self.optimizer.tensors(),
            "average": {} if self.average is None else self.average.tensors(),
        }
        state: State = {group: {} for group in own}
        for group, tensors in own.items():
            for full_name, tensor in tensors.items():
                name = _weight_of(full_name)
                laid_out = tensor.shape == self.placement.weights[name].shape
                whole = self.placement.whole({name: tensor})[name] if laid_out else tensor
                if self.placement.rank == 0:
                    state[group][full_name] = whole.detach().cpu()
        return state

    @torch.no_grad()
    def take(self, listed: list[tuple[str, str, torch.Size, torch.dtype]], state: State | None = None) -> None:
        """Take up a whole state that rank 0 has, keeping what this rank holds of it."""
        own: State = {}
        for group, full_name, shape, dtype in listed:
            if state is not None:
                tensor = state[group][full_name].to(self.device).contiguous()
            else:
                tensor = torch.empty(shape, dtype=dtype, device=self.device)
            distributed.broadcast(tensor, src=0)
            name = _weight_of(full_name)
            weight = self.placement.weights[name]
            if tensor.shape == (self.placement.rows[name], *weight.shape[1:]):
                tensor = self.placement.own(name, tensor).clone()
            own.setdefault(group, {})[full_name] = tensor
        for name, weight in self.placement.weights.items():
            weight.copy_(own["model"][name])
        self.optimizer.restore(own.get("optimizer", {}))
        if self.average is not None:
            self.average.restore(own.get("average", {}))

    def refresh(self) -> None:
        """Bring the present weights into the whole model of rank 0."""
        self.placement.fill(self.model)


class Leader(Member):
    """The update of rank 0, in the place of that of one process: it has all ranks do what the trainer asks for."""

    def __init__(self, model: Transformer, stage: Stage, context: Context, group: Group):
        self._group, self._stage = group, stage
        self.busy = False
        """In the midst of an order: true for good when it could not be carried out to its end."""
        with self._exchange():
            group.send([stage] * group.rank.size)
            super().__init__(model, stage, context)

    def step(self, batch: Batch, order: Order) -> dict[str, Tensor]:
        shares = shares_of(batch.to(torch.device("cpu")), self._group.rank.size, self._stage.runtime.micro_batch)
        with self._ordered("share", [(share, order) for share in shares]):
            figures = self.share(shares[0], order, batch if order.probed else None)
        self.model.zero_grad()  # gradients that a probe may have brought into the whole model
        return figures

    def state(self) -> State:
        if not self.placement.sharded:
            return super().state()
        with self._ordered("collect", [()] * self._group.rank.size):
            return self.collect()

    def restore(self, state: Mapping[str, Mapping[str, Tensor]], origin: Path) -> None:
        load_weights(self.model, dict(state["model"]), origin)
        groups = {name: dict(state.get(name, {})) for name in ("model", "optimizer", "average")}
        listed = [(group, name, t.shape, t.dtype) for group, tensors in groups.items() for name, t in tensors.items()]
        with self._ordered("take", [(listed,)] * self._group.rank.size):
            self.take(listed, groups)

    def fill(self) -> None:
        if self.placement.sharded:
            with self._ordered("refresh", [()] * self._group.rank.size):
                self.refresh()

    def dismiss(self) -> None:
        """Let the other ranks go; they cannot be told in the midst of an order."""
        with self._exchange():
            self._group.send([None] * self._group.rank.size)

    @contextmanager
    def _ordered(self, method: str, arguments: list[tuple[Any, ...]]) -> Iterator[None]:
        with self._exchange():
            self._group.send([(method, own) for own in arguments])
            yield

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        self.busy = True
        with lost_rank(self._stage.name):
            yield
        self.busy = False


def serve(group: Group, make_context: Any) -> None:
    """What the other ranks do in a training stage: carry out orders until they are let go."""
    stage = group.receive()
    with lost_rank(stage.name):
        member = Member(Transformer(stage.model).to(group.device), stage, make_context(stage))
        while (order := group.receive()) is not None:
            method, arguments = order
            getattr(member, method)(*arguments)


def shares_of(batch: Batch, ranks: int, micro_batch: int | None) -> list[Share]:
    """The rows of a batch for each rank, in order and as even as can be, each in equally many parts.

    A rank that has no row for a part takes the first row of the batch there, with weight 0.
    """
    [whole] = batch.split(None)
    rows = len(whole.tokens_BT)
    most = -(-rows // ranks)
    count = -(-most // (micro_batch or most))
    shares = []
    for rank in range(ranks):
        start, stop = rank * rows // ranks, (rank + 1) * rows // ranks
        bounds = [start + part * (stop - start) // count for part in range(count + 1)]
        pieces = [(low, high) if high > low else (0, 1) for low, high in pairwise(bounds)]
        weights = [int(high > low) for low, high in pairwise(bounds)]
        shares.append(Share([whole.rows(low, high) for low, high in pieces], weights))
    return shares


@contextmanager
def lost_rank(stage: str) -> Iterator[None]:
    """RankLost in the place of the error that a broken connection gives."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise RankLost(
            f"{stage}: another rank is gone ({reason}); the last checkpoint stands, and the same command continues"
        ) from error


def _weight_of(full_name: str) -> str:
    """The weight that a tensor of the state belongs to; names of optimizer state end with `:key`."""
    return full_name.partition(":")[0]
