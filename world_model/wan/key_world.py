"""Key worlds: published checkpoints with action modules. They begin from a picture, obey keys, and come in blocks of several frames.

    world = World.load("matrix.safetensors")
    stream = world.stream(seed=7, start=0)      # or start=picture, uint8 [352, 640, 3]
    frames = stream.tick(["forward", "look_left"])

Such a checkpoint was distilled to make one block at a time, so nothing is planned ahead: a block knows the keys that are down when it begins.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_model.card import Card, WorldError
from world_model.stream import WindowConfig
from world_model.wan.matrix_game import ActionCache, MatrixGame
from world_model.wan.parts import PictureParts, load_picture_parts
from world_model.wan.text_world import PublishedWorld, VideoStream


class KeyWorld(PublishedWorld):
    """A published checkpoint with action modules."""

    transformer: MatrixGame
    parts: PictureParts | None

    def stream(self, seed: Any = 0, start: Any = 0, *, actions: np.ndarray | None = None, fused: bool = True) -> "KeyStream":
        """Start a stream from one of the world's pictures or from another; arguments as in `World.stream`, but there are no batches and no clips.

        Raises:
            WorldError: there is no such start, or several streams are asked for.
        """
        if not isinstance(seed, int | np.integer) or actions is not None:
            raise WorldError("A world with action modules makes one stream at a time, from a picture.")
        return KeyStream(self, int(seed), start, fused)


def open_key_world(
    card: Card, transformer: MatrixGame, window: WindowConfig, starts: dict[str, Tensor], path: Path, parts: "str | Path | PictureParts | None" = None
) -> KeyWorld:
    """Return the key world of a network, with its parts: those given, or from the folder or the hub's name that is given or that the card names.

    Raises:
        WorldError: the parts are not there or do not fit.
    """
    if not isinstance(parts, PictureParts):
        weight = transformer.head.head.weight
        parts = load_picture_parts(parts or card.parts, transformer.config, weight.device, weight.dtype)
    return KeyWorld(card, transformer, window, starts, parts, path)


class KeyStream(VideoStream):
    """One running key world."""

    world: KeyWorld

    def __init__(self, world: KeyWorld, seed: int, start: Any, fused: bool) -> None:
        assert world.parts is not None, "a world without parts can be saved, not played"
        super().__init__(world, seed, start, fused, world.parts.new_decoder())
        window, game = self.window, world.transformer.game
        options = {"dtype": window.cache.k.dtype, "device": window.device}
        window.cache = ActionCache(window.config.context, game, 1, window.grid[0] * window.grid[1], window.config.block_frames, **options)
        features, latents = (t.to(world.device, world.dtype) for t in world.parts.see(self.screen))
        with torch.no_grad():
            window.text = world.transformer.scene(features, latents)  # type: ignore[assignment]

    def tick(self, action: Any, *, rollback: int | None = None, late: bool = True, rolling: bool = False) -> np.ndarray:
        """Advance by one block, as `Stream.tick` does; what is held in the first was held before, too."""
        if self.frame == 0:
            self.window.lived[:] = torch.from_numpy(self.world.action_vector(action)).to(self.world.device)
        return super().tick(action, rollback=rollback, late=late, rolling=rolling)

    def _past(self, start: Any, actions: np.ndarray | None, batch: int) -> tuple[Tensor, Tensor, None, np.ndarray]:
        card, shape = self.world.card, (self.world.card.height, self.world.card.width, 3)
        if isinstance(start, np.ndarray):
            if start.dtype != np.uint8 or start.shape != shape:
                raise WorldError(f"A start of this world is a picture, uint8 {list(shape)}, not {start.dtype} {list(start.shape)}.")
            screen = start.copy()
        elif isinstance(start, int | np.integer) and 0 <= start < card.num_starts:
            screen = self.world.starts["screens"][int(start)].numpy()
        else:
            raise WorldError(f"This world has the starts 0 to {card.num_starts - 1}; {start} is not one of them.")
        return torch.zeros(1, 0, *self.world.latent_shape), torch.zeros(1, 0, len(card.actions)), None, screen
