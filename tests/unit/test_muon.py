import torch

from pocketlm.training.muon import UPDATE_SIZE, Muon, orthogonalise
from tests.small_training import SHAPE, make_model


def test_singular_values_become_about_one_and_directions_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((24, 40), (40, 24), (16, 16)):
        matrices = torch.randn(3, rows, columns, generator=generator)
        result = orthogonalise(matrices)
        assert torch.linalg.svdvals(result).min() > 0.3
        assert torch.linalg.svdvals(result).max() < 1.3
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        # The iteration scales singular values; it does not turn singular vectors.
        turned = left.mT @ result @ right.mT
        off_diagonal = turned - torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))
        assert off_diagonal.abs().max() < 1e-3


def test_fused_projections_are_orthogonalised_part_by_part() -> None:
    model = make_model()
    weight = model.blocks[0].attention.qkv.weight
    muon = Muon({"blocks.0.attention.qkv.weight": weight}, SHAPE, weight_decay=0.0)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    before = weight.detach().clone()
    muon.step(learning_rate=0.5, skipped=torch.tensor(False))
    rows = SHAPE.fused_rows()["attention.qkv.weight"]
    updates = ((before - weight.detach()) / 0.5).split(rows)
    gradients = weight.grad.split(rows)
    for update, gradient in zip(updates, gradients, strict=True):
        expected = orthogonalise(gradient.unsqueeze(0))[0] * UPDATE_SIZE * max(gradient.shape) ** 0.5
        torch.testing.assert_close(update, expected, atol=1e-5, rtol=1e-4)
