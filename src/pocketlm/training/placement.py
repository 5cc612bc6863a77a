"""Where the weights lie while they are trained: on one process, whole on each of several (DDP), or in shares (FSDP2).

What trains (optimizer, guard, average) works on `weights`, plain tensors by name, and asks the placement for what takes
more than its own: sums over ranks, whole matrices. On one process all of that is the tensor itself.

A share of a weight is a run of its rows: with R rows on N ranks, rank r has rows r * ceil(R / N) up to the next one's
(torch's FSDP2 cuts like that); the last ranks may have fewer or none.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from pocketlm.model.transformer import Transformer
from pocketlm.training.batches import Batch
from pocketlm.training.objective import Objective

Loss = tuple[Tensor, dict[str, Tensor]]


class Placement:
    """One process: it holds every weight whole, and there is nobody to exchange anything with."""

    rank, size = 0, 1
    sharded = False

    def __init__(self, model: Transformer):
        self.model = model
        self.weights: dict[str, Tensor] = dict(model.named_parameters())
        self.rows = {name: len(weight) for name, weight in self.weights.items()}
        """Rows of the whole weights."""

    def loss(self, objective: Objective, part: Batch) -> Loss:
        """Loss and metrics of this process's part of a step."""
        return objective.loss(self.model, part)

    @contextmanager
    def exchanging(self, gradients: bool) -> Iterator[None]:
        """Around forward and backward of a part; after the last part (`gradients`) gradients are sums over ranks."""
        yield

    def summed(self, figures: list[Tensor]) -> list[Tensor]:
        """Scalars summed over the ranks' parts of a step."""
        return figures

    def over_shares(self, figure: Tensor) -> Tensor:
        """A tensor summed over what the ranks hold of the weights."""
        return figure

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors laid out as the weights of these names, whole on every rank."""
        return dict(tensors)

    def own(self, name: str, tensor: Tensor) -> Tensor:
        """What this rank holds of a whole tensor that is laid out as the weight `name`."""
        return tensor

    def clip(self, limit: float) -> Tensor:
        """Scale gradients down to the global norm `limit`; returns the norm before."""
        return torch.nn.utils.clip_grad_norm_(self.weights.values(), limit)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.model.zero_grad()

    def trained(self, model: Transformer) -> dict[str, Tensor]:
        """What a checkpoint holds of the whole model that is trained: the tensors themselves, by name."""
        return model.state_dict()

    def identity(self) -> dict[str, str]:
        """What a checkpoint does not hold and yet rests on."""
        return {}

    def fill(self, model: Transformer) -> None:
        """Bring the present weights and gradients into a whole model, on rank 0."""


class Replicated(Placement):
    """Whole on every rank; gradients are summed while the backward pass runs (DistributedDataParallel)."""

    def __init__(self, model: Transformer):
        super().__init__(model)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        known = signature(nn.parallel.DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # until torch 2.12
        options: dict[str, Any] = {"gradient_as_bucket_view": True, buffers: False}
        self._joint = nn.parallel.DistributedDataParallel(_LossModule(model), **options)
        self._joint.register_comm_hook(None, _sum_over_ranks)

    def loss(self, objective: Objective, part: Batch) -> Loss:
        result: Loss = self._joint(objective, part)
        return result

    @contextmanager
    def exchanging(self, gradients: bool) -> Iterator[None]:
        if gradients:
            yield
        else:
            with self._joint.no_sync():
                yield

    def summed(self, figures: list[Tensor]) -> list[Tensor]:
        return list(_total(torch.stack(figures)))


class Sharded(Placement):
    """A share of every weight, its gradient and its optimizer state on each rank (FSDP2, `fully_shard`).

    `replica` becomes the sharded model; whole models beside it are filled when somebody needs one. A layer's weights
    are gathered when it runs, those of embedding, final norm and head for the whole of a step.
    """

    sharded = True

    def __init__(self, replica: Transformer, compiled: bool):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(replica)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        mesh = init_device_mesh(replica.head_weight_VD.device.type, (self.size,))
        self._joint = _LossModule(replica)
        for module in [*replica.blocks, self._joint]:
            if compiled and module is not self._joint:
                # The layer alone: gathering its weights is done by hooks around it.
                module.forward = torch.compile(module.forward, dynamic=False)
            part: Any = fully_shard(module, mesh=mesh)
            # Sums, as everywhere else, where FSDP2 would take means; and gloo knows only plain sums.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        self._parameters: dict[str, Any] = dict(replica.named_parameters())
        self.weights = {name: parameter.detach().to_local() for name, parameter in self._parameters.items()}

    def loss(self, objective: Objective, part: Batch) -> Loss:
        result: Loss = self._joint(objective, part)
        return result

    @contextmanager
    def exchanging(self, gradients: bool) -> Iterator[None]:
        joint: Any = self._joint
        joint.set_requires_gradient_sync(gradients)
        joint.set_is_last_backward(gradients)
        yield
        if gradients:
            for name, parameter in self._parameters.items():
                self.weights[name].grad = parameter.grad.to_local()

    def summed(self, figures: list[Tensor]) -> list[Tensor]:
        return list(_total(torch.stack(figures)))

    def over_shares(self, figure: Tensor) -> Tensor:
        return _total(figure)

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One exchange for all of them."""
        if not tensors:
            return {}
        padded = {name: _padded(tensor, self._share(name)) for name, tensor in tensors.items()}
        own = torch.cat([tensor.flatten() for tensor in padded.values()])
        gathered = own.new_empty(self.size, len(own))
        distributed.all_gather(list(gathered), own)
        pieces = gathered.split([tensor.numel() for tensor in padded.values()], 1)
        return {
            name: piece.reshape(-1, *tensor.shape[1:])[: self.rows[name]]
            for (name, tensor), piece in zip(padded.items(), pieces, strict=True)
        }

    def own(self, name: str, tensor: Tensor) -> Tensor:
        share = self._share(name)
        return tensor[self.rank * share : (self.rank + 1) * share]

    def clip(self, limit: float) -> Tensor:
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        norm = self.over_shares(torch.nn.utils.get_total_norm(gradients).square()).sqrt()
        torch.nn.utils.clip_grads_with_norm_(self.weights.values(), limit, norm)
        return norm

    def zero_grad(self) -> None:
        super().zero_grad()
        for weight in self.weights.values():
            weight.grad = None

    @torch.no_grad()
    def fill(self, model: Transformer) -> None:
        own = dict(model.named_parameters()) if self.rank == 0 else {}
        for name, share in self.weights.items():
            gradient = None if share.grad is None else self.whole({name: share.grad})[name]
            weight = self.whole({name: share})[name]
            if name in own:
                own[name].copy_(weight)
                own[name].grad = gradient

    def _share(self, name: str) -> int:
        return -(-self.rows[name] // self.size)


class _LossModule(nn.Module):
    """Model and objective as one module whose forward is the loss: the head meets the loss outside of the model's own
    forward, and the hooks of DDP and FSDP2 must hold for both."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, objective: Objective, part: Batch) -> Loss:
        return objective.loss(self.model, part)


def _sum_over_ranks(state: Any, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    """Instead of DDP's mean: an objective has divided by the targets of the whole step already."""
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _total(tensor: Tensor) -> Tensor:
    summed = tensor.clone()
    distributed.all_reduce(summed)
    return summed


def _padded(tensor: Tensor, rows: int) -> Tensor:
    missing = rows - len(tensor)
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor
