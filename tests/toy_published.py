"""Toys of what is published: a checkpoint in the exact layout, and stand-ins for the text encoder and the video autoencoder."""

import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from published import Size, random_weights
from torch import Tensor

from world_model.wan.convert import convert
from world_model.wan.parts import Parts

SIZE = Size(latent=(4, 4, 6), text=(7, 12))
WIDTH, HEIGHT = 48, 32  # of the frames of SIZE.latent


def save_checkpoint(path: Path, weights: dict[str, Tensor], top: str = "generator_ema", prefix: str = "model._fsdp_wrapped_module.") -> Path:
    torch.save({top: {prefix + name: t for name, t in weights.items()}, "step": 3000}, path)
    return path


def toy_world_file(folder: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    torch.manual_seed(0)
    checkpoint = save_checkpoint(folder / "toy.pt", random_weights(SIZE))
    assert convert(checkpoint, folder / "toy.safetensors", width=width, height=height, heads=SIZE.heads, text_len=SIZE.text[0], dtype="float32") == 0
    return folder / "toy.safetensors"


def encode(prompt: str) -> Tensor:
    """Random numbers that depend on the prompt alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
    return torch.randn(1, *SIZE.text, generator=generator)


class TinyDecoder:
    """Enlarges three channels; remembers only whether it has begun."""

    def __init__(self) -> None:
        self.begun = False

    def decode(self, latents: Tensor) -> Tensor:
        frames = latents[:, :3].sigmoid().repeat_interleave(4, 0)[0 if self.begun else 3 :]
        self.begun = True
        return (255 * F.interpolate(frames, scale_factor=8)).to(torch.uint8).permute(0, 2, 3, 1)

    def snapshot(self) -> bool:
        return self.begun

    def restore(self, saved: bool) -> None:
        self.begun = saved


PARTS = Parts(encode, TinyDecoder)
