"""Packed weights give the numbers of plain ones."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from world_model.packing import can_pack, flop_formulas, pack

packed_in = {
    dtype: pytest.mark.skipif(not can_pack(torch.zeros(1, dtype=dtype)), reason="this version of torch or this processor cannot pack weights")
    for dtype in (torch.bfloat16, torch.float32)
}
any_dtype = pytest.mark.parametrize("dtype", [pytest.param(dtype, marks=mark) for dtype, mark in packed_in.items()])


@any_dtype
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_a_packed_layer_is_the_plain_one(rows: int, dtype: torch.dtype) -> None:
    layer, x = nn.Linear(96, 64, dtype=dtype), torch.randn(2, rows, 96, dtype=dtype)
    with torch.no_grad():
        plain = layer(x)
        pack(layer, 8, 8)
        assert "forward" in vars(layer), "it is packed"
        if dtype == torch.bfloat16:
            assert torch.equal(layer(x), plain)
        else:
            torch.testing.assert_close(layer(x), plain)


@any_dtype
@pytest.mark.parametrize("size", [(1, 24, 32), (3, 7, 5)])
def test_a_packed_convolution_is_the_plain_one(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    images, rows, columns = size
    layer = nn.Conv2d(12, 64, 3, stride=2, padding=1, dtype=dtype)
    x = torch.randn(images, 12, rows, columns, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        plain = layer(x)
        pack(layer, 24, 32)
        assert torch.allclose(layer(x).float(), plain.float(), atol=0.02 if dtype == torch.bfloat16 else 1e-5)


@packed_in[torch.bfloat16]
def test_a_packed_feed_forward_layer_is_nearer_to_float32_than_the_plain_one() -> None:
    layers, x = nn.Sequential(nn.Linear(64, 256), nn.GELU("tanh"), nn.Linear(256, 64)).bfloat16(), torch.randn(70, 64).bfloat16()
    with torch.no_grad():
        plain, exact = layers(x), copy.deepcopy(layers).float()(x.float())
        pack(layers, 8, 8)
        packed = layers(x)
    assert not torch.equal(packed, plain), "the activation is computed before its input is rounded"
    assert (packed.float() - exact).abs().mean() <= (plain.float() - exact).abs().mean()


@any_dtype
def test_where_a_gradient_is_wanted_the_plain_layer_computes(dtype: torch.dtype) -> None:
    layer = nn.Linear(8, 8, dtype=dtype)
    pack(layer, 8, 8)
    layer(torch.ones(1, 8, dtype=dtype)).sum().backward()
    assert layer.weight.grad is not None


@any_dtype
def test_a_copy_of_a_packed_layer_has_weights_of_its_own(dtype: torch.dtype) -> None:
    layers, x = nn.Sequential(nn.Linear(8, 8, dtype=dtype), nn.ReLU()), torch.ones(1, 8, dtype=dtype)
    pack(layers, 8, 8)
    other = copy.deepcopy(layers)
    torch.nn.init.zeros_(other[0].weight)
    torch.nn.init.ones_(other[0].bias)
    with torch.no_grad():
        assert torch.equal(other(x), torch.ones_like(x)) and not torch.equal(layers(x), other(x))


@any_dtype
def test_operations_of_packed_layers_are_counted(dtype: torch.dtype) -> None:
    layer, convolution = nn.Linear(24, 40, dtype=dtype), nn.Conv2d(4, 8, 3, stride=2, padding=1, dtype=dtype)
    x, image = torch.randn(2, 5, 24, dtype=dtype), torch.randn(3, 4, 8, 12, dtype=dtype)

    def count() -> int:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
            layer(x), convolution(image)
        return counter.get_total_flops()

    plain = count()
    pack(nn.ModuleList([layer, convolution]), 8, 12)
    assert count() == plain == 2 * 10 * 24 * 40 + 2 * 3 * 4 * 6 * 8 * 4 * 9
