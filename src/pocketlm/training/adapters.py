"""Training of low-rank adapters: what is trained lies beside the model, which gets merged weights when they are needed.

The trainer's model stays plain: rollouts, scores and files see weights that are merged anew from those of the start
each time (`Adapted.fill`), so that nothing drifts, and see the policy that is trained. Gradients, optimizer, guard and
checkpoints see the adapters alone.

Not covered: several ranks.
"""

from hashlib import sha256

from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.model.lora import adapted_model, merge
from pocketlm.model.lora_settings import LoraSettings
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.context import Context
from pocketlm.training.placement import Placement
from pocketlm.training.ranks import Rank
from pocketlm.training.settings import TrainingSettings, lora_of


class Adapted(Placement):
    """One process that trains adapters. `model` is the adapted one, `weights` are the factors of its adapters."""

    def __init__(self, model: Transformer, lora: LoraSettings, seed: int):
        super().__init__(adapted_model(model, lora, seed))
        self.lora = lora
        self.weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.rows = {name: len(weight) for name, weight in self.weights.items()}
        self._base = _digest(self.model.state_dict(), self.weights)

    def trained(self, model: Transformer) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.weights.items()}

    def identity(self) -> dict[str, str]:
        """Checkpoints hold the adapters alone, and these are worth nothing on other weights."""
        return {"base": self._base}

    def fill(self, model: Transformer) -> None:
        """Bring the merged weights into the model that the trainer was given."""
        merge(self.model, model)


def placement_of(model: Transformer, settings: TrainingSettings, context: Context) -> Placement:
    """Where the weights lie that one process trains.

    Raises:
        InputError: adapters, on several ranks.
    """
    lora = lora_of(settings)
    if lora is None:
        return Placement(model)
    ranks = Rank.of_environment().size
    if ranks > 1:
        raise InputError(
            f"{context.stage}.lora: adapters are trained by one process, but {ranks} train together here; start "
            "without torchrun, or train all weights"
        )
    return Adapted(model, lora, context.seed("lora"))


def _digest(tensors: dict[str, Tensor], leaving_out: dict[str, Tensor]) -> str:
    """sha256 over names and bytes."""
    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        if name not in leaving_out:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
