"""Text worlds: they listen to a prompt, begin from nothing, and come in blocks of several frames.

    world = World.load("rf.safetensors")
    stream = world.stream(seed=7)
    stream.prompt = "A train crosses a viaduct in the snow."
    frames = stream.tick([])                    # uint8 [9, 480, 832, 3], from the second tick on 12 frames

A new prompt counts from the next tick on: the text keys of every layer are made anew, and the window is rolled back as for any change of the player's mind.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from world_model.card import Card, WorldError
from world_model.checks import VIDEO_STRIDE
from world_model.stream import WindowConfig
from world_model.transformer import Transformer
from world_model.wan.decoder import Decoder
from world_model.wan.parts import Parts, load_parts
from world_model.world import Stream, World

BEFORE = 16  # grey value of the screen before the first block


class PublishedWorld(World):
    """A published checkpoint: its network, start pictures if it has any, and the parts it needs beside its file."""

    def __init__(
        self, card: Card, transformer: Transformer, window: WindowConfig, starts: dict[str, Tensor], parts: Any, path: Path | None = None
    ) -> None:
        self.parts, self.starts = parts, starts
        self._hold(card, transformer, window, path)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks in the world's file."""
        return {"transformer": self.transformer}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent frame."""
        return self.transformer.config.in_channels, self.card.height // VIDEO_STRIDE, self.card.width // VIDEO_STRIDE


class TextWorld(PublishedWorld):
    """A published checkpoint that listens to words."""

    parts: Parts | None

    def __init__(self, card: Card, transformer: Transformer, window: WindowConfig, parts: Parts | None, path: Path | None = None) -> None:
        super().__init__(card, transformer, window, {}, parts, path)

    def stream(self, seed: Any = 0, start: Any = 0, *, actions: np.ndarray | None = None, fused: bool = True) -> "TextStream":
        """Start a stream from nothing; arguments as in `World.stream`, but a text world has no starts (0) and no batches.

        Raises:
            WorldError: another start or several streams are asked for.
        """
        if not isinstance(seed, int | np.integer) or not isinstance(start, int | np.integer) or start != 0 or actions is not None:
            raise WorldError("A text world begins from nothing, one stream at a time: it takes one seed, and start 0.")
        return TextStream(self, int(seed), fused)


def open_text_world(
    card: Card, transformer: Transformer, window: WindowConfig, path: Path, parts: "str | Path | Parts | None" = None, offload: bool = False
) -> TextWorld:
    """Return the text world of a transformer, with its parts: those given, or from the folder or the hub's name that is given or that the card names.

    Raises:
        WorldError: the parts are not there or do not fit.
    """
    if not isinstance(parts, Parts):
        weight = transformer.head.head.weight
        parts = load_parts(parts or card.parts, transformer.config, weight.device, weight.dtype, offload=offload)
    return TextWorld(card, transformer, window, parts, path)


class VideoStream(Stream):
    """A stream whose blocks a decoder with a memory of its own turns into frames."""

    def __init__(self, world: World, seed: int, start: Any, fused: bool, decoder: Decoder) -> None:
        super().__init__(world, seed, start, None, fused)
        self._decoder = decoder

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything that changes."""
        return super().snapshot() | {"text": self.window.text, "decoder": self._decoder.snapshot()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to a snapshot."""
        super().restore(saved)
        self.window.text = saved["text"]
        self._decoder.restore(saved["decoder"])

    def _decode(self, block: Tensor) -> Tensor:
        return self._decoder.decode(block[0])[None]


class TextStream(VideoStream):
    """One running text world; set `prompt` at any time."""

    world: TextWorld

    def __init__(self, world: TextWorld, seed: int, fused: bool) -> None:
        assert world.parts is not None, "a world without parts can be saved, not played"
        super().__init__(world, seed, 0, fused, world.parts.new_decoder())
        self.prompt = ""
        self._heard: str | None = None  # the prompt that the window is conditioned on
        self._encode = world.parts.encode

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything that changes."""
        return super().snapshot() | {"prompt": self.prompt, "heard": self._heard}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to a snapshot."""
        super().restore(saved)
        self.prompt, self._heard = saved["prompt"], saved["heard"]

    def _changed(self, vectors: np.ndarray) -> bool:
        heard, self._heard = self._heard, self.prompt
        if heard != self.prompt:
            self.window.text = self.world.transformer.embed_text(self._encode(self.prompt).to(self.world.device, self.world.dtype))
        return heard not in (None, self.prompt)

    def _past(self, start: Any, actions: np.ndarray | None, batch: int) -> tuple[Tensor, Tensor, None, np.ndarray]:
        card = self.world.card
        return torch.zeros(1, 0, *self.world.latent_shape), torch.zeros(1, 0, 0), None, np.full((card.height, card.width, 3), BEFORE, np.uint8)
