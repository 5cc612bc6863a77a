"""The back end that is logged is the one that attention runs on."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pocketlm.model.backends import attention_backend
from tests.small_training import SHAPE, make_model

CPU_KERNELS = {
    "flash": "aten::_scaled_dot_product_flash_attention_for_cpu",
    "math": "aten::_scaled_dot_product_attention_math",
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("flash", [False, True])
def test_the_backend_is_the_kernel_that_runs(masked: bool, flash: bool) -> None:
    tokens_BT = torch.zeros(2, 16, dtype=torch.long)
    mask_B1TT = torch.ones(2, 1, 16, 16, dtype=torch.bool) if masked else None
    model = make_model()
    allowed = torch.backends.cuda.flash_sdp_enabled()
    torch.backends.cuda.enable_flash_sdp(flash)
    try:
        name = attention_backend(SHAPE, 16, torch.device("cpu"), torch.float32, masked)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            model(tokens_BT, None, mask_B1TT)
    finally:
        torch.backends.cuda.enable_flash_sdp(allowed)
    assert name == ("flash" if flash else "math")
    assert CPU_KERNELS[name] in {event.key for event in profiled.key_averages()}


def test_compiled_bfloat16_on_a_cpu_has_a_backward_pass_of_its_own() -> None:
    cpu = torch.device("cpu")
    names = {
        (masked, compiled): attention_backend(SHAPE, 16, cpu, torch.bfloat16, masked, compiled)
        for masked in (False, True)
        for compiled in (False, True)
    }
    assert names.pop((False, True)) == "flash, own backward pass"
    assert set(names.values()) == {"flash"}
    assert attention_backend(SHAPE, 16, cpu, torch.float32, compiled=True) == "flash"
