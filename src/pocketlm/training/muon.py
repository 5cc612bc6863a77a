"""Muon: momentum updates of matrices, made orthogonal (Jordan 2024, kellerjordan.github.io/posts/muon).

Fused projections are orthogonalised part by part: query, key, value, gate and up are matrices of their own. Updates are
scaled to the usual size of AdamW's, 0.2 per weight (Moonlight, arXiv 2502.16982), so that both share a learning rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pocketlm.model.config import ModelSettings
from pocketlm.training.device import compute_type
from pocketlm.training.placement import Placement
from pocketlm.training.settings import TrainingSettings

Orthogonalisation = Literal["newton_schulz", "polar_express"]

ROW_MEMORY = 0.95  # of the mean squares of rows; beta2 of NorMuon
UPDATE_SIZE = 0.2  # root mean square
# Odd quintics (x, x^3, x^5) of the iterations that take the singular values in (0, 1] to about 1 in five steps.
# Newton-Schulz: the same one each time, steep at 0 (Jordan 2024).
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5
# Polar Express: each the best for the range that the ones before it leave, from [0.001, 1] on (arXiv 2505.16932,
# listing 1); its margin of 1 % keeps rounding in bf16 from driving values out of that range.
POLAR_EXPRESS_MARGIN = 1.01
POLAR_EXPRESS = tuple(
    (first / POLAR_EXPRESS_MARGIN, third / POLAR_EXPRESS_MARGIN**3, fifth / POLAR_EXPRESS_MARGIN**5)
    for first, third, fifth in (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    )
)


@dataclass
class Matrix:
    """A weight that Muon trains, its state, and the rows of the matrices that it holds one above the other.

    `row_squares` [rows, 1]: running mean square of the rows of its orthogonal updates; kept for `normalise_rows` only.
    """

    weight: Tensor
    momentum: Tensor
    row_squares: Tensor | None
    parts: list[int]


class Muon:
    """Nesterov momentum, orthogonalised, with decoupled weight decay; over fp32 weights, with fp32 state.

    `matrices`: name -> weight; which of them are fused is read from the names and the shape of the model.
    `rate`: learning rate of the matrices relative to the one that `step` is handed; decay goes with the latter.
    `placement`: where the weights lie; where ranks hold shares of them, updates are orthogonalised whole on every rank.
    """

    def __init__(
        self,
        matrices: Mapping[str, Tensor],
        shape: ModelSettings,
        settings: TrainingSettings,
        rate: float = 1.0,
        placement: Placement | None = None,
    ):
        self._placement = placement
        rows = {name: len(weight) if placement is None else placement.rows[name] for name, weight in matrices.items()}
        self.matrices = {
            name: Matrix(
                weight,
                torch.zeros_like(weight),
                weight.new_zeros(rows[name], 1) if settings.normalise_rows else None,
                _parts(name, rows[name], shape),
            )
            for name, weight in matrices.items()
        }
        self.settings, self.rate = settings, rate

    @torch.no_grad()
    def step(self, learning_rate: float, skipped: Tensor) -> None:
        """Update from the gradients; where the scalar `skipped` is true weights and state keep their bits."""
        directions: dict[str, Tensor] = {}
        for name, matrix in self.matrices.items():
            gradient = matrix.weight.grad
            if gradient is None:
                raise RuntimeError(f"{name} has no gradient")
            momentum = torch.lerp(gradient, matrix.momentum, self.settings.momentum)
            matrix.momentum.copy_(torch.where(skipped, matrix.momentum, momentum))
            directions[name] = torch.lerp(gradient, momentum, self.settings.momentum)
        if self._placement is not None:
            directions = self._placement.whole(directions)
        updates = {name: list(whole.split(self.matrices[name].parts)) for name, whole in directions.items()}
        for shape in dict.fromkeys(part.shape for parts in updates.values() for part in parts):
            # Matrices of one shape are orthogonalised in one batch.
            places = [
                (name, i) for name, parts in updates.items() for i, part in enumerate(parts) if part.shape == shape
            ]
            stacked = orthogonalise(
                torch.stack([updates[name][i] for name, i in places]), self.settings.orthogonalisation
            )
            stacked = self._scaled(stacked, places, skipped)
            for (name, i), update in zip(places, stacked, strict=True):
                updates[name][i] = update
        decay = learning_rate * self.settings.weight_decay
        for name, matrix in self.matrices.items():
            update = torch.cat(updates[name])
            if self._placement is not None:
                update = self._placement.own(name, update)
            if self.settings.cautious_weight_decay:
                decayed = matrix.weight * (1 - decay * towards_zero(matrix.weight, update))
            else:
                decayed = matrix.weight * (1 - decay)
            moved = decayed.sub_(update, alpha=learning_rate * self.rate)
            matrix.weight.copy_(torch.where(skipped, matrix.weight, moved))

    def tensors(self) -> dict[str, Tensor]:
        """The state as `parameter name:key` -> tensor, the tensors themselves."""
        state = {f"{name}:momentum": matrix.momentum for name, matrix in self.matrices.items()}
        rows = {f"{name}:row_squares": matrix.row_squares for name, matrix in self.matrices.items()}
        return state | {name: squares for name, squares in rows.items() if squares is not None}

    def _scaled(self, directions: Tensor, places: Sequence[tuple[str, int]], skipped: Tensor) -> Tensor:
        """The orthogonal [n, rows, columns] at the size of an update: a root mean square of UPDATE_SIZE."""
        if not self.settings.normalise_rows:
            # Singular values of 1 give rows * columns entries a sum of squares of min(rows, columns).
            return directions * (UPDATE_SIZE * max(directions.shape[1:]) ** 0.5)
        matrices = [(self.matrices[name], i) for name, i in places]
        kept = [matrix.row_squares.split(matrix.parts)[i] for matrix, i in matrices if matrix.row_squares is not None]
        return UPDATE_SIZE * normalise_rows(directions, kept, skipped)


def orthogonalise(matrices: Tensor, method: Orthogonalisation = "newton_schulz") -> Tensor:
    """The nearest matrices with all singular values 1, roughly; [n, rows, columns].

    Of singular values of 0.2 % of the Frobenius norm or more, `newton_schulz` makes 0.68 to 1.21 and `polar_express`
    0.87 to 1.13, in five iterations; smaller ones stay smaller. Products are in bf16 where the device computes in it,
    else in the type of `matrices`.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    iterate = matrices.mT if tall else matrices
    norm = torch.linalg.matrix_norm(iterate, keepdim=True)
    iterate = iterate / ((norm * POLAR_EXPRESS_MARGIN if method == "polar_express" else norm) + 1e-7)
    if compute_type(matrices.device) == torch.bfloat16:
        iterate = iterate.bfloat16()
    for first, third, fifth in POLAR_EXPRESS if method == "polar_express" else NEWTON_SCHULZ:
        gram = iterate @ iterate.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
        iterate = torch.baddbmm(iterate, polynomial, iterate, beta=first)
    return (iterate.mT if tall else iterate).to(matrices.dtype)


def normalise_rows(directions: Tensor, row_squares: Sequence[Tensor], skipped: Tensor) -> Tensor:
    """NorMuon (arXiv 2510.05491): rows divided by their running size, the whole brought to a root mean square of 1.

    Orthogonal updates move some output channels far more than others; this evens them out. `row_squares`: for each of
    the [n, rows, columns] the running mean squares of its rows, [rows, 1]; updated in place unless `skipped`.
    """
    squares = torch.lerp(directions.square().mean(-1, keepdim=True), torch.stack(list(row_squares)), ROW_MEMORY)
    for kept, new in zip(row_squares, squares, strict=True):
        kept.copy_(torch.where(skipped, kept, new))
    even = directions / (squares.sqrt() + 1e-8)
    size = torch.linalg.matrix_norm(even, keepdim=True) / (even.shape[-2] * even.shape[-1]) ** 0.5
    return even / size.clamp(min=1e-8)  # a gradient of zeros stays one


def towards_zero(weight: Tensor, update: Tensor) -> Tensor:
    """Where subtracting the update takes the weight nearer to zero, boolean.

    Cautious weight decay (arXiv 2510.12402, algorithm 1) acts there only, so that decay never works against the loss;
    weights that are not updated decay too.
    """
    return weight * update >= 0


def _parts(name: str, whole: int, shape: ModelSettings) -> list[int]:
    fused = shape.fused_rows().items()
    return next((rows for ending, rows in fused if name.endswith(ending)), [whole])
