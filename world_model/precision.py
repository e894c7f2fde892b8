"""In which numbers a processor computes the ticks of a world and the steps of its training: what is fastest there, measured once and remembered.

Processors without instructions for bfloat16 emulate it slower than they compute float32; with them the gain depends on the model. So matrix products as large
as a tick's decide at the first start, in a few hundredths of a second. The answer is kept per processor and version of torch, so that the same machine
always plays with the same numbers: pictures depend on them.
"""

import contextlib
import os
import time
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import torch
import torch.nn.functional as F

from world_model.card import user_folder
from world_model.machine import processor

Answers = dict[str, Literal["bfloat16", "float32"]]


def choose_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16, or float32 on a processor that computes it faster."""
    return fastest() if device.type == "cpu" else torch.bfloat16


def fast_autocast(*, keep_casts: bool = True) -> torch.autocast:
    """Return the context in which training computes: in bfloat16, where this processor is faster with it.

    `keep_casts` of weights from one pass to the next; those of sharded weights would lie where others lay before.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=fastest() is torch.bfloat16, cache_enabled=keep_casts)


def fastest() -> torch.dtype:
    """Return the faster dtype of this processor, from the user's folder or else by measuring; a folder that cannot be written is no hindrance."""
    return _fastest(user_folder() / "precision.json", f"{processor()}, torch {torch.__version__}")


@cache
def _fastest(path: Path, key: str) -> torch.dtype:
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Answers)
    except (OSError, msgspec.DecodeError):
        known = {}
    if key not in known:
        seconds = {dtype: time_products(dtype) for dtype in (torch.float32, torch.bfloat16)}
        known[key] = "bfloat16" if seconds[torch.bfloat16] < seconds[torch.float32] else "float32"
        temporary = path.with_suffix(f".{os.getpid()}.part")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(known)))
            os.replace(temporary, path)
    return torch.bfloat16 if known[key] == "bfloat16" else torch.float32


@torch.inference_mode()
def time_products(dtype: torch.dtype, *, tokens: int = 96, width: int = 256, hidden: int = 1024, repeats: int = 30) -> float:
    """Return the least seconds that the two matrix products of a small transformer's feed-forward layer take: what else the machine does only adds to them."""
    x, up, down = torch.ones(tokens, width, dtype=dtype), torch.ones(hidden, width, dtype=dtype), torch.ones(width, hidden, dtype=dtype)
    least = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        F.linear(F.linear(x, up), down)
        least = min(least, time.perf_counter() - began)
    return least
