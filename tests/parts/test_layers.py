"""Activations: the same numbers with and without gradients, in place only without."""

import pytest
import torch
import torch.nn.functional as F

from longtake.parts.vit import ACTIVATIONS, Activation

PLAIN = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_without_gradients_an_activation_takes_the_place_of_its_input(
    name: Activation, dtype: torch.dtype
) -> None:
    given = torch.randn(7, 33, generator=torch.Generator().manual_seed(0)).to(dtype)
    wanted = PLAIN[name](given)
    with torch.no_grad():
        x = given.clone()
        made = ACTIVATIONS[name](x)
    assert made.data_ptr() == x.data_ptr()
    assert made.equal(wanted)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_with_gradients_its_input_stays(name: Activation) -> None:
    x = torch.randn(7, 33, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before = x.detach().clone()
    (ours,) = torch.autograd.grad(ACTIVATIONS[name](x).sum(), x)
    (plain,) = torch.autograd.grad(PLAIN[name](x).sum(), x)
    assert x.detach().equal(before)
    assert ours.equal(plain)
