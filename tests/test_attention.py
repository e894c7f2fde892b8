"""Attention against its definition, and rotary positions against theirs."""

import importlib.util
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from world_model.attention import FEW, attention, may_look, rotary_table, rotate


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    scores = torch.einsum("bnhd,bmhd->bhnm", q.double(), k.double()) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v.double())


def sample(n: int, m: int, heads: int = 2, width: int = 16, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(n * 100 + m)
    return torch.randn(batch, n, heads, width), torch.randn(batch, m, heads, width), torch.randn(batch, m, heads, width)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 7), (24, 96), (300, 600)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_plain_softmax(n: int, m: int, masked: bool, gradients: bool) -> None:
    q, k, v = sample(n, m)
    q.requires_grad_(gradients)
    mask = torch.arange(n)[:, None] + (m - n) >= torch.arange(m)[None, :] if masked else None
    out = attention(q, k, v, None if mask is None else may_look(mask))
    assert (FEW > 24 * 96) and (FEW < 300 * 600)  # both kernels
    assert out.shape == q.shape
    assert torch.allclose(out.double(), plain(q, k, v, mask), atol=1e-6)


def test_gradients_equal_those_of_plain_softmax() -> None:
    ours, theirs = ([t.clone().requires_grad_() for t in sample(5, 9)] for _ in range(2))
    weight = torch.randn(2, 5, 2, 16)
    (attention(*ours) * weight).sum().backward()
    (plain(*theirs) * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_bfloat16_is_close_to_float32() -> None:
    q, k, v = sample(24, 96)
    exact, rough = attention(q, k, v), attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert rough.dtype == torch.bfloat16
    assert torch.allclose(rough.float(), exact, atol=0.03)


@pytest.mark.skipif(not torch.cuda.is_available() or importlib.util.find_spec("flash_attn") is None, reason="needs CUDA and flash-attn")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_equals_torch(dtype: torch.dtype) -> None:
    q, k, v = (t.to("cuda", dtype) for t in sample(384, 1536, heads=12, width=128))
    flash = attention(q, k, v)
    assert torch.allclose(flash.double(), plain(q, k, v), atol=1e-2)
    everywhere = torch.zeros(384, 1536, device="cuda")  # a mask keeps flash out of it
    assert torch.allclose(flash.float(), attention(q, k, v, everywhere).float(), atol=1e-2)


@given(st.integers(-(10**6), 10**6), st.integers(-20, 20))
def test_only_differences_of_positions_matter(offset: int, apart: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 6, 2, 24), torch.randn(1, 6, 2, 24)
    scores = []
    for base in (0, offset):
        turned_q, turned_k = rotate(q, rotary_table((base + apart,), 2, 3, 24)), rotate(k, rotary_table((base,), 2, 3, 24))
        scores.append(torch.einsum("bnhd,bmhd->bhnm", turned_q, turned_k))
    assert torch.allclose(scores[0], scores[1], atol=1e-4)


def test_rotation_by_hand() -> None:
    # 12 pairs: 4 each for frame, row and column; adjacent numbers form a pair.
    frame, row, column = 5, 1, 2
    x = torch.randn(1, 6, 1, 24)
    turned = rotate(x, rotary_table((frame,), 2, 3, 24))
    n = row * 3 + column
    for pair in range(12):
        position, speed = (frame, row, column)[pair // 4], 10000.0 ** (-(pair % 4) / 4)
        angle = position * speed
        a, b = x[0, n, 0, 2 * pair].item(), x[0, n, 0, 2 * pair + 1].item()
        expected = (a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle))
        assert turned[0, n, 0, 2 * pair : 2 * pair + 2].tolist() == pytest.approx(expected, abs=1e-5)


def test_pairs_are_split_as_published() -> None:
    # Of 64 pairs the frames have 22, rows and columns 21 each: exactly those turn when one position changes.
    still = rotary_table((0,), 2, 2, 128)[0, 0]
    later, below, beside = rotary_table((1,), 2, 2, 128)[0, 0], rotary_table((0,), 2, 2, 128)[2, 0], rotary_table((0,), 2, 2, 128)[1, 0]
    assert [int((table != still).sum()) for table in (later, below, beside)] == [22, 21, 21]


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([6, 8, 16, 24, 128]))
def test_rotation_keeps_lengths(frames: int, rows: int, columns: int, width: int) -> None:
    x = torch.randn(1, frames * rows * columns, 1, width)
    turned = rotate(x, rotary_table(tuple(range(frames)), rows, columns, width))
    assert turned.dtype == x.dtype
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-4)
