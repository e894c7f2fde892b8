"""Worlds and the streams that run in them: the Python API of the engine.

    world = World.load("assets/worlds/maze.safetensors")
    stream = world.stream(seed=7, start=0)
    frame = stream.tick(["forward"])

A world is immutable and can be shared; a stream is everything that changes while playing.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from world_model.autoencoder import Autoencoder, AutoencoderConfig
from world_model.card import Card, WorldError, find_world, parse_card, read_metadata
from world_model.checks import check_memory, faults, read_tensors, section, start_shapes
from world_model.context import ContextAttention
from world_model.motion import Motion
from world_model.noise import AddressedNoise
from world_model.packing import pack
from world_model.precision import choose_dtype
from world_model.recall import Recall
from world_model.state import load_state, save_state
from world_model.stream import RollingWindow, WindowConfig
from world_model.transformer import Transformer, TransformerConfig
from world_model.wan import matrix_game
from world_model.wan.matrix_game import MatrixGame, MatrixGameConfig

if TYPE_CHECKING:
    from world_model.wan.parts import Parts, PictureParts

Action = Mapping[str, float] | Iterable[str] | np.ndarray | Tensor


class World:
    """One checkpoint a player can enter: card, autoencoder, transformer and start clips, on one device in one dtype."""

    def __init__(
        self, card: Card, autoencoder: Autoencoder, transformer: Transformer, window: WindowConfig, starts: dict[str, Tensor], path: Path | None = None
    ) -> None:
        self.autoencoder, self.starts = autoencoder.eval(), starts
        self._hold(card, transformer, window, path)

    def _hold(self, card: Card, transformer: Transformer, window: WindowConfig, path: Path | None) -> None:
        self.card, self.transformer, self.window, self.path = card, transformer.eval(), window, path
        self.device, self.dtype = transformer.head.head.weight.device, transformer.head.head.weight.dtype
        self._sha256: str | None = None
        # The start that a stream began from last, and its window then; not kept of published worlds, where it takes gigabytes.
        self.begun: tuple[Any, dict[str, Any]] | None = None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks in the world's file."""
        return {"transformer": self.transformer, "autoencoder": self.autoencoder}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent frame."""
        return self.autoencoder.config.latent_shape

    @property
    def sha256(self) -> str:
        """Hex digest of the world's file (computed once, when first asked for)."""
        if self._sha256 is None:
            if self.path is None:
                raise WorldError("This world has no file yet; save it first.")
            with open(self.path, "rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return self._sha256

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        *,
        compile: bool = False,
        offload: bool = False,
        parts: "str | Path | Parts | PictureParts | None" = None,
    ) -> "World":
        """Load a world file (or a world by its name).

        Names, shapes and dtypes of all tensors are checked against the card before anything is allocated.

        Args:
            path: a file, or the name of a world that ships or lies in the user's folder.
            device: "auto" (CUDA if there is one), "cpu", "cuda", ...
            dtype: of the weights; None chooses bfloat16, or float32 on a processor that was measured to compute it faster.
            compile: let torch compile the transformer's blocks, in the first ticks.
            offload: keep a text world's text encoder in main memory; for a prompt its layers visit the device one after the other.
            parts: what a published world needs beside its file, if not what its card names: a folder, a name in the hub's cache, or the parts themselves.

        Raises:
            WorldError: one sentence that says what is wrong with the file, or that what it needs is not there.
        """
        path = find_world(str(path))
        card = parse_card(read_metadata(path).get("card"), path)
        target = choose_device(device)
        dtype = dtype or choose_dtype(target)
        try:
            transformer_config = section(card.transformer, MatrixGameConfig if "action_layers" in card.transformer else TransformerConfig)
            autoencoder_config = None if card.parts else section(card.autoencoder, AutoencoderConfig)
            window = section(card.window, WindowConfig)
            for fault in faults(card, transformer_config, autoencoder_config, window):
                raise ValueError(f"{fault}.")
            with torch.device("meta"):
                network = MatrixGame if isinstance(transformer_config, MatrixGameConfig) else Transformer
                modules: dict[str, nn.Module] = {"transformer": network(transformer_config)}  # type: ignore[arg-type]
                if autoencoder_config:
                    modules["autoencoder"] = Autoencoder(autoencoder_config)
            expected = {f"{part}.{name}": tuple(t.shape) for part, module in modules.items() for name, t in module.state_dict().items()}
            check_memory(card, transformer_config, autoencoder_config, window, sum(math.prod(shape) for shape in expected.values()))
        except (ValueError, RuntimeError, OverflowError) as error:
            raise WorldError(f"{path} has a card that does not describe a model: {str(error).splitlines()[0]}") from error
        if card.num_starts:
            expected |= start_shapes(card, autoencoder_config, place=transformer_config.place_numbers)
        tensors = read_tensors(path, expected)
        for part, module in modules.items():
            state = {name.removeprefix(part + "."): t.to(target, dtype) for name, t in tensors.items() if name.startswith(part + ".")}
            module.load_state_dict(state, assign=True)
            module.requires_grad_(False)
        if compile:
            compile_blocks(modules["transformer"])  # type: ignore[arg-type]
        starts = {name.removeprefix("starts."): t for name, t in tensors.items() if name.startswith("starts.")}
        if isinstance(modules["transformer"], MatrixGame):
            from world_model.wan.key_world import open_key_world

            return open_key_world(card, modules["transformer"], window, starts, path, parts)  # type: ignore[arg-type]
        if not autoencoder_config:
            from world_model.wan.text_world import open_text_world

            return open_text_world(card, modules["transformer"], window, path, parts, offload)  # type: ignore[arg-type]
        if not bool(torch.isfinite(torch.linalg.inv_ex(modules["autoencoder"].latent_matrix.float()).inverse).all()):  # type: ignore[operator]
            raise WorldError(f"{path} holds a matrix of latents that cannot be inverted.")
        lay_out(modules["autoencoder"], modules["transformer"], packed=not compile)  # type: ignore[arg-type]
        return cls(card, modules["autoencoder"], modules["transformer"], window, starts, path)  # type: ignore[arg-type]

    def save(self, path: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the world to one file, weights in `dtype`, under a temporary name first."""
        tensors = {f"starts.{name}": t.contiguous() for name, t in self.starts.items()}
        for part, module in self.networks.items():
            tensors |= {f"{part}.{name}": t.detach().to("cpu", dtype).contiguous() for name, t in module.state_dict().items()}
        temporary = Path(path).with_suffix(".part")
        save_file(tensors, temporary, {"card": msgspec.json.encode(self.card).decode()})
        os.replace(temporary, path)
        self.path, self._sha256 = Path(path), None

    def stream(
        self,
        seed: int | Sequence[int] = 0,
        start: int | np.ndarray | Sequence[int] = 0,
        *,
        actions: np.ndarray | None = None,
        fused: bool = True,
    ) -> "Stream":
        """Start a stream; with sequences of seeds and starts, a batch of streams that tick together.

        Args:
            seed: of the noise.
            start: index into the world's start clips, or a picture or clip to start from: uint8 [height, width, 3] or [frames, height, width, 3].
            actions: for a clip, the action vectors [frames, actions] that led to its frames (default: none held).
            fused: False keeps the clean pass apart (for measurements).

        Raises:
            WorldError: there is no such start, or the picture does not fit this world.
        """
        return Stream(self, seed, start, actions, fused)

    def action_vector(self, action: Action) -> np.ndarray:
        """Return the float32 vector [actions] of an action given as names, as a mapping of names to values, or as a vector.

        Raises:
            WorldError: it names an action that this world does not have, or the vector has another length.
        """
        names = self.card.action_names
        if isinstance(action, Tensor | np.ndarray):
            given = np.asarray(action, np.float32)
            if given.shape != (len(names),) or not np.isfinite(given).all():
                raise WorldError(f"An action vector of this world has {len(names)} finite numbers, not shape {given.shape}.")
            return given
        values = dict.fromkeys(names, 0.0)
        for name, value in action.items() if isinstance(action, Mapping) else ((name, 1.0) for name in action):
            if name not in names:
                raise WorldError(f"This world has no action {name!r}; it has: {', '.join(names)}.")
            if not math.isfinite(value):
                raise WorldError("The value of an action must be a finite number.")
            values[name] = value
        return np.array(list(values.values()), np.float32)


class Stream:
    """One running world (or a batch of them in step): window, cache, noise and the frame on the screen."""

    prompt = ""  # only the streams of text worlds listen to it

    def __init__(self, world: World, seed: int | Sequence[int], start: int | np.ndarray | Sequence[int], actions: np.ndarray | None, fused: bool) -> None:
        self.world = world
        self.batched = not isinstance(seed, int | np.integer)
        seeds = [int(s) for s in seed] if self.batched else [int(seed)]  # type: ignore[union-attr,arg-type]
        if any(not 0 <= s < 1 << 64 for s in seeds):
            raise WorldError("A seed is a whole number from 0 to 2**64 - 1.")
        latents, past_actions, place, self.screen = self._past(start, actions, len(seeds))
        self.noise = AddressedNoise(seeds, world.window.block_frames, world.latent_shape, world.device)
        self.window = RollingWindow(world.transformer, world.window, self.noise, world.latent_shape, batch=len(seeds), fused=fused)
        shared = None if self.batched or world.card.parts else begins(start, actions)
        if shared is not None and (begun := world.begun) and begun[0] == shared:
            self.window.restore(begun[1])
        else:
            self.window.remember(latents.to(world.device), past_actions.to(world.device), None if place is None else place.to(world.device))
            if shared is not None:
                world.begun = shared, self.window.snapshot()
        self.frame = 0
        self.held: np.ndarray | None = None  # the last tick's action vectors
        self.rolled_back = 0

    @property
    def seed(self) -> int:
        """The seed of the noise (in a batch, of the first stream)."""
        return self.noise.seeds[0]

    @torch.inference_mode()
    def tick(self, action: Any, *, rollback: int | None = None, late: bool = True, rolling: bool = True) -> np.ndarray:
        """Advance by one block under an action; return the frame it led to, uint8 [height, width, 3].

        In a batch, `action` is a sequence of actions and the result has a leading batch axis; with more than one frame per block, a frame axis
        comes before the height. The first tick fills the window and takes a little longer.

        Args:
            action: names, a mapping of names to values, or a vector.
            rollback: by how many levels the window goes back first if this is not the last tick's action (of any stream of a batch); default: the
                card's. `rolled_back` tells afterwards by how many it went.
            late: False binds the action to the block that enters alone, not to those in the window (for measurements).
            rolling: False denoises one block at a time through all levels, frame by frame (for measurements).

        Raises:
            WorldError: there is no such action or rollback, or the world comes to numbers that are not finite.
        """
        levels = self.world.card.rollback if rollback is None else rollback
        if not 0 <= levels <= self.world.card.max_rollback:
            raise WorldError(f"This world can be rolled back by 0 to {self.world.card.max_rollback} levels, not by {levels}.")
        vectors = np.stack([self.world.action_vector(a) for a in (action if self.batched else [action])])
        held = torch.from_numpy(vectors).to(self.world.device)
        self.rolled_back = self.window.roll_back(held, levels) if self._changed(vectors) else 0
        self.held = vectors
        block = None
        while block is None:
            block = self.window.advance(held, append=rolling or not self.window.levels, late=late)
        frames = self._decode(block).cpu().numpy()
        if not bool(torch.isfinite(block).all()):
            raise WorldError("This world has come to numbers that are not finite; its weights are damaged.")
        if self.world.window.block_frames == 1:
            frames = frames[:, 0]
        self.screen = frames if self.batched else frames[0]
        self.frame += 1
        return self.screen

    @torch.inference_mode()
    def prepare(self) -> None:
        """Do now what the next tick need not wait for an action to do. It changes no frame; who waits between two ticks has the next one sooner."""
        self.window.prepare()

    def _changed(self, vectors: np.ndarray) -> bool:
        """Tell whether the player asks for something else than on the last tick."""
        return self.held is not None and not np.array_equal(self.held, vectors)

    def _decode(self, block: Tensor) -> Tensor:
        """Return the frames of a finished block, uint8 [batch, frames, height, width, 3]."""
        return self.world.autoencoder.decode(block)

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything that changes; `restore` brings it back any number of times."""
        return {"seeds": self.noise.seeds, "frame": self.frame, "screen": self.screen.copy(), "held": self.held, "window": self.window.snapshot()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to a snapshot of this stream (or of one of the same world and batch size: the seed comes along)."""
        self.noise.seeds, self.frame, self.screen, self.held = saved["seeds"], saved["frame"], saved["screen"].copy(), saved["held"]
        self.window.restore(saved["window"])

    def save(self, path: Path, saved: dict[str, Any] | None = None) -> None:
        """Write a snapshot (default: of now) to a file; raise `StateError` if that cannot be."""
        save_state(path, self.snapshot() if saved is None else saved)

    def load(self, path: Path) -> dict[str, Any]:
        """Return the snapshot in a file, for `restore`; raise `StateError` if it is not one of this world."""
        return load_state(path, self)

    @torch.no_grad()
    def _past(self, start: Any, actions: np.ndarray | None, batch: int) -> tuple[Tensor, Tensor, Tensor | None, np.ndarray]:
        """Return the latents, actions, place (if it is known) and last screen of where the stream starts."""
        world, card = self.world, self.world.card
        if isinstance(start, np.ndarray) and start.ndim > 1:
            clip = start[None] if start.ndim == 3 else start
            if clip.dtype != np.uint8 or clip.shape[1:] != (card.height, card.width, 3) or not len(clip) or len(clip) % world.window.block_frames:
                raise WorldError(f"A start of this world is uint8 [frames, {card.height}, {card.width}, 3], not {start.dtype} {list(start.shape)}.")
            given = np.zeros((len(clip), len(card.actions)), np.float32) if actions is None else np.asarray(actions, np.float32)
            if given.shape != (len(clip), len(card.actions)) or not np.isfinite(given).all():
                raise WorldError(f"The actions of this start are [{len(clip)}, {len(card.actions)}] finite numbers, not {given.shape}.")
            latents = world.autoencoder.encode(torch.from_numpy(clip.copy()).to(world.device))
            many = (batch, -1, -1, -1, -1)
            screen = np.repeat(clip[-1:], batch, 0) if self.batched else clip[-1]
            return latents[None].expand(many), torch.from_numpy(given)[None].expand(batch, -1, -1), None, screen
        indices = [int(i) for i in start] if self.batched and not isinstance(start, int | np.integer) else [int(start)] * batch
        if len(indices) != batch or any(not 0 <= i < card.num_starts for i in indices):
            raise WorldError(f"This world has the starts 0 to {card.num_starts - 1}; {start} is not one of them.")
        screens = world.starts["screens"][indices].numpy()
        place = world.starts["places"][indices, None].float() if "places" in world.starts else None
        return world.starts["latents"][indices].float(), world.starts["actions"][indices].float(), place, screens if self.batched else screens[0]


def begins(start: Any, actions: np.ndarray | None) -> int | tuple[bytes, ...]:
    """Return what tells starts from each other: the number of one, or what is in a clip and the actions that led to it."""
    return tuple(np.ascontiguousarray(part).tobytes() for part in (start, actions) if part is not None) if isinstance(start, np.ndarray) else int(start)


def lay_out(autoencoder: Autoencoder, transformer: nn.Module, *, packed: bool = True) -> None:
    """Lay weights out as processors multiply them fastest: convolutions channels last, queries, keys and values together, all packed where that can be.

    A memory of places and what reckons them stay in float32 (`Recall.exact`).
    """
    together: list[nn.Module] = []
    for convolutions in (autoencoder, *(part for part in transformer.children() if isinstance(part, Motion | Recall))):
        convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(convolutions, Recall):
            for part in convolutions.exact:
                together += part.float().modules()
        elif isinstance(convolutions, Motion):
            convolutions.pack(packed=packed)
            together += (pair.modulation for pair in convolutions.pairs)
    for block in transformer.blocks:  # type: ignore[union-attr]
        block.self_attn.pack(packed=packed)
        together += block.self_attn.q, block.self_attn.k, block.self_attn.v
    for network in (autoencoder, transformer) if packed else ():
        pack(network, *autoencoder.config.latent_shape[1:], done=together)


def choose_device(device: str) -> torch.device:
    """Return the torch device for a name; "auto" is CUDA where there is one.

    Raises:
        WorldError: there is no such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise WorldError(f"There is no device {device!r} here; use cpu{' or cuda' if torch.cuda.is_available() else ''}.") from error
    return chosen


def compile_blocks(transformer: Transformer, **options: Any) -> None:
    """Let torch compile every block of a transformer around what looks into the stream's cache, which stays as it is.

    Args:
        options: for `torch.compile`.
    """
    ContextAttention.__call__ = torch.compiler.disable(ContextAttention.__call__)  # type: ignore[method-assign]
    matrix_game.along_time = torch.compiler.disable(matrix_game.along_time)
    for block in transformer.blocks:
        block.compile(**options)
