"""schemathesis on the OpenAPI document: whatever it makes up, no answer of the 5xx kind, none that is undocumented.

The server is a real one over a tiny untrained model, so that requests that are taken are also answered.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from pocketlm.generation.live import LiveEngine
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.serving.app import create_app
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel
from tests.serving_world import served, tokenizer

CONTEXT = 600
HOST = {"Host": "localhost"}
LIMITS = Limits(max_tokens=8, request_seconds=30.0)


def tiny() -> ServedModel:
    torch.set_num_threads(1)
    shape = ModelSettings(
        vocabulary=tokenizer().vocabulary,
        width=32,
        layers=1,
        heads=2,
        kv_heads=2,
        head_dim=16,
        ffn_width=48,
        context=CONTEXT,
    )
    transformer = Transformer(shape).requires_grad_(False)
    transformer.init_weights(0)
    engine = LiveEngine(transformer, 4, decode=tokenizer().decode)
    return replace(served(engine, LIMITS), context=CONTEXT)


@pytest.fixture(scope="module")
def document() -> schemathesis.BaseSchema:
    app = create_app({"toy": tiny()}, LIMITS, None)
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HOST)


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_answer_is_a_fault_of_the_server(case: schemathesis.Case) -> None:
    # What a grammar or a JSON schema may be, no OpenAPI document can say.
    case.call_and_validate(headers=HOST, excluded_checks=[positive_data_acceptance])
