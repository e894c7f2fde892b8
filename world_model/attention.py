"""Attention and rotary positions, and nothing else.

`attention` is the only place that knows which kernel runs: flash-attn where it is installed and the tensors are 16-bit on CUDA,
torch's scaled dot product otherwise, except where gradients are wanted on a CPU; all compute the same function.

Axes: b batch, n query tokens, m key tokens, h heads, d head width.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

ROPE_BASE = 10000.0
FEW = 1 << 17  # pairs of query and key in a head whose scores are written out on a CPU


@lru_cache(maxsize=1)
def _flash():
    try:
        from flash_attn import flash_attn_func  # type: ignore[import-not-found]
    except ImportError:
        return None
    return flash_attn_func


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend with q [b, n, h, d] over k, v [b, m, h, d]; return [b, n, h, d].

    Args:
        mask: [n, m], added to the scores: 0 where a query may look, minus infinity where not. None: everywhere.
    """
    if mask is None and q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and (flash := _flash()) is not None:
        return flash(q, k, v)
    mask = None if mask is None else mask.to(q.dtype)
    if q.device.type == "cpu" and (q.requires_grad or q.shape[1] * k.shape[1] <= FEW):  # torch's own kernel is 1.7x slower in training, 1.5x for few tokens
        batch, _, heads, _ = q.shape
        k = k.transpose(1, 2).contiguous().flatten(0, 1)  # the product would bring keys into order itself, slower
        q, v = (a.transpose(1, 2).flatten(0, 1) for a in (q * q.shape[-1] ** -0.5, v))
        scores = q.bmm(k.mT) if mask is None else q.bmm(k.mT).add_(mask)
        return scores.softmax(-1).bmm(v).unflatten(0, (batch, heads)).transpose(1, 2)
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask).transpose(1, 2)


def may_look(where: Tensor) -> Tensor:
    """Return the mask for `attention` of a boolean one that is True where a query may look."""
    return torch.zeros(where.shape, device=where.device).masked_fill(~where, float("-inf"))


def rotary_table(frames: tuple[int, ...], height: int, width: int, head_width: int, device: torch.device | None = None) -> Tensor:
    """Return the rotary factors of the tokens of the given frame positions.

    Positions are (frame, row, column); of the head's complex pairs, the rows and columns take a third each, rounded down, and
    the frames the rest (Wan 2.1: 22/21/21 of 64). Angles are computed in float64, so frame positions may be any integers.

    Args:
        frames: temporal position of each frame; only differences matter to attention.

    Returns:
        complex64 [len(frames) * height * width, 1, head_width / 2].
    """
    pairs = head_width // 2
    spatial = pairs // 3
    sizes = (pairs - 2 * spatial, spatial, spatial)
    axes = []
    for positions, size in zip((torch.tensor(frames), torch.arange(height), torch.arange(width)), sizes, strict=True):
        speeds = ROPE_BASE ** -(torch.arange(size, dtype=torch.float64) / size)
        axes.append(torch.outer(positions.double(), speeds))
    t, y, x = axes
    shape = (len(frames), height, width)
    angles = torch.cat(
        [t[:, None, None].expand(*shape, -1), y[None, :, None].expand(*shape, -1), x[None, None, :].expand(*shape, -1)], dim=-1
    ).reshape(-1, 1, pairs)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64).to(device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate adjacent pairs of x [b, n, h, d] by the factors [n, 1, d / 2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)
