"""A compiler gets the decoder as one graph, forward and backward, and computes the same."""

import pytest
import torch

from pocketlm.model.config import ModelSettings
from pocketlm.model.document_mask import document_mask
from tests.small_training import SHAPE, make_model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, about what it does itself
@pytest.mark.parametrize(
    ("layout", "masked", "autocast"), [("llama", False, False), ("qwen3", True, False), ("llama", False, True)]
)
def test_the_compiled_decoder_is_one_graph_and_equals_the_plain_one(layout: str, masked: bool, autocast: bool) -> None:
    model = make_model(ModelSettings(**{**SHAPE.model_dump(), "layout": layout}))
    tokens_BT = torch.randint(SHAPE.vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    arguments = document_mask(tokens_BT, border=int(tokens_BT[0, 5])) if masked else (None, None)
    compiled = torch.compile(model.hidden, backend="aot_eager", fullgraph=True, dynamic=False)
    direction_D = torch.randn(SHAPE.width, generator=torch.Generator().manual_seed(1))
    results = []
    for hidden in (model.hidden, compiled):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            hidden_BTD = hidden(tokens_BT, *arguments)
        (hidden_BTD @ direction_D).square().sum().backward()
        results.append([hidden_BTD.detach(), *(weight.grad for weight in model.parameters())])
    for mine, reference in zip(*results, strict=True):
        scale = float(reference.abs().max())
        assert (mine - reference).abs().max() <= (3e-2 if autocast else 1e-5) * scale
