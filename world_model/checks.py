"""What a world file must satisfy before anything is allocated: its card's ranges, how its parts fit together, and the tensors it holds."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from world_model.autoencoder import AutoencoderConfig
from world_model.card import Card, WorldError
from world_model.stream import WindowConfig
from world_model.transformer import TransformerConfig
from world_model.wan.matrix_game import RAW_FRAMES, MatrixGameConfig

VIDEO_STRIDE = 8  # pixels per latent position of Wan 2.1's video autoencoder
FLOATS = {"BF16", "F16", "F32"}
Config = TypeVar("Config")


def section(values: dict[str, Any], kind: type[Config]) -> Config:
    """Convert a card's section to its dataclass; every key must be known."""
    converted = msgspec.convert(values, kind)
    for name in _unknown(values, asdict(converted)):  # type: ignore[call-overload]
        raise ValueError(f"{kind.__name__} has no {name!r}.")
    return converted


def _unknown(values: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of nested sections that mean nothing."""
    for name, value in values.items():
        if name not in known:
            yield name
        elif isinstance(known[name], dict):
            yield from _unknown(value, known[name])


def faults(card: Card, transformer: TransformerConfig, autoencoder: AutoencoderConfig | None, window: WindowConfig) -> Iterator[str]:
    """Yield what is wrong with a card's ranges and with how its parts fit together; each test relies on those before it."""
    sizes: tuple[int, ...] = (
        transformer.dim, transformer.ffn_dim, transformer.num_heads, transformer.num_layers, transformer.in_channels, *transformer.patch_size,
        transformer.freq_dim, max(1, transformer.motion_channels), max(1, transformer.recall_width), transformer.follow_width,
    )  # fmt: skip
    game = transformer if isinstance(transformer, MatrixGameConfig) else None
    depths: tuple[int, ...] = (transformer.num_layers, transformer.motion_blocks, transformer.recall_blocks)
    if autoencoder:
        sizes += (*autoencoder.channels, autoencoder.latent_channels, autoencoder.patch, len(autoencoder.channels))
        depths += (autoencoder.encoder_blocks, autoencoder.decoder_blocks)
    if not all(1 <= size <= 16384 for size in sizes):
        yield "sizes must lie between 1 and 16384"
    if not all(0 <= depth <= 128 for depth in depths) or (autoencoder and len(autoencoder.channels) > 8):
        yield "depths must lie between 0 and 128, with at most 8 scales"
    if transformer.dim % (2 * transformer.num_heads) or transformer.head_width < 6:
        yield "dim must be a multiple of 2 * num_heads, and a head at least 6 wide"
    if transformer.freq_dim % 2 or not 0 < transformer.eps <= 1:
        yield "freq_dim must be even and eps lie between 0 and 1"
    if transformer.prediction not in ("x0", "velocity"):
        yield "the prediction must be x0 or velocity"
    if not 1 <= transformer.action_history <= 256:
        yield "action_history must lie between 1 and 256"
    if transformer.motion_channels < 0 or transformer.recall_width < 0:
        yield "motion_channels and recall_width must not be negative"
    if not 0 <= transformer.recall_least <= 1:
        yield "recall_least must lie between 0 and 1"
    if not 1 <= transformer.field_of_view <= 170:
        yield "the field of view must lie between 1 and 170 degrees"
    if transformer.stands_still and not (transformer.motion_channels and transformer.num_actions):
        yield "what stands still needs motion_channels and num_actions"
    if transformer.recall_width and not (transformer.motion_channels and transformer.places):
        yield "a memory of places needs places and motion"
    if not (0 <= transformer.bodies <= 64 and 1 <= transformer.kinds <= 64):
        yield "there are at most 64 bodies, of at most 64 kinds"
    if transformer.bodies and (transformer.from_above or not transformer.recall_width):
        yield "bodies need a memory of places, and not one of places seen from above"
    if transformer.num_actions != len(card.actions):
        yield "num_actions must be the number of actions"
    if autoencoder:
        if transformer.text_dim or game or not (card.num_starts and card.start_frames):
            yield "a world without text begins from its start clips"
        if (autoencoder.height, autoencoder.width) != (card.height, card.width):
            yield "the autoencoder's frames must be the card's"
        if autoencoder.height % autoencoder.stride or autoencoder.width % autoencoder.stride:
            yield "the frame size must be a multiple of the autoencoder's stride"
        if transformer.in_channels != autoencoder.latent_channels:
            yield "latent channels must agree"
    else:
        if not (1 <= transformer.text_dim <= 16384 and 1 <= transformer.text_len <= 4096):
            yield "a world with parts beside its file has text, of at most 4096 tokens and 16384 numbers each"
        if card.start_frames or card.autoencoder or transformer.motion_channels or transformer.places:
            yield "a world with parts beside its file has no start clips, autoencoder, motion or places of its own"
        if game:
            yield from _game_faults(card, game, window)
        elif card.actions or card.num_starts:
            yield "a text world has no actions and no start pictures"
        if card.height % VIDEO_STRIDE or card.width % VIDEO_STRIDE:
            yield f"the frame size must be a multiple of {VIDEO_STRIDE}"
    _, height, width = autoencoder.latent_shape if autoencoder else (0, card.height // VIDEO_STRIDE, card.width // VIDEO_STRIDE)
    if height % transformer.patch_size[0] or width % transformer.patch_size[1]:
        yield "the latent size must be a multiple of the patch size"
    if transformer.places not in (None, (height // transformer.patch_size[0], width // transformer.patch_size[1])):
        yield "places must be the tokens of a frame"
    ladder, context = window.ladder, window.context
    if not card.rollback < len(ladder):
        yield "the rollback must be less than the ladder has levels"
    if not 1 <= len(ladder) <= 32 or ladder[0] != 1 or any(a <= b for a, b in zip(ladder, (*ladder[1:], 0), strict=True)):
        yield "the ladder must fall from 1 towards 0, with 1 to 32 levels"
    if not 1 <= window.block_frames <= 16 or card.start_frames % window.block_frames:
        yield "block_frames must lie between 1 and 16, and start_frames be a multiple of it"
    least, blocks = (0, 1) if game else (1, len(ladder))
    if not (least <= context.sink < context.cache <= 256 and context.sink + blocks <= context.attention <= 512):
        yield "the context must hold the sink and more"


def _game_faults(card: Card, game: MatrixGameConfig, window: WindowConfig) -> Iterator[str]:
    if not (1 <= game.action_layers <= game.num_layers and 1 <= game.action_dim <= 16384 and 1 <= game.key_dim <= 16384 and 1 <= game.action_heads <= 1024):
        yield "action modules have sizes between 1 and 16384, and no more layers than the network"
    if game.action_dim % (2 * game.action_heads) or not (len(game.mouse) < game.num_actions and game.num_keys <= 64):
        yield "action_dim must be a multiple of 2 * action_heads, and there be at least one key"
    if game.action_history != len(RAW_FRAMES) or game.prediction != "velocity" or not card.num_starts:
        yield f"a world of action modules knows {len(RAW_FRAMES)} actions, predicts velocity and begins from pictures"
    if window.context.attention < 2 or window.context.cache < 2:
        yield "a world of action modules sees the block before"


def check_memory(card: Card, transformer: TransformerConfig, autoencoder: AutoencoderConfig | None, window: WindowConfig, weights: int) -> None:
    """Refuse a world that asks for far more memory than a file with this many weights has reason to; raise ValueError with one sentence."""
    stride = autoencoder.stride if autoencoder else VIDEO_STRIDE
    height, width = card.height // stride, card.width // stride
    tokens = height * width // (transformer.patch_size[0] * transformer.patch_size[1]) * window.block_frames
    blocks = min(window.context.attention, window.context.cache + len(window.ladder))
    allowed = max(1 << 28, 8 * weights)
    most = 1 << 15 if autoencoder else 1 << 18  # published worlds may be watched at higher resolutions
    if tokens * blocks > most:
        raise ValueError(f"it attends {tokens * blocks} tokens at once, more than {most}.")
    if 2 * transformer.num_layers * window.context.cache * tokens * transformer.dim > allowed:
        raise ValueError("its context is too large for its size.")
    widest = tokens * blocks * transformer.ffn_dim
    if autoencoder:
        pixels = autoencoder.height * autoencoder.width // autoencoder.patch**2
        widest = max(widest, pixels * max(*autoencoder.channels, transformer.motion_channels))
    if widest > allowed:
        raise ValueError("its layers are too wide for its size.")


def start_shapes(card: Card, autoencoder: AutoencoderConfig | None, *, place: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of start clips and of their places (so many numbers each), or of the start pictures of a world whose autoencoder is not its own."""
    shapes: dict[str, tuple[int, ...]] = {"starts.screens": (card.num_starts, card.height, card.width, 3)}
    if autoencoder:
        many = (card.num_starts, card.start_frames)
        shapes |= {"starts.latents": (*many, *autoencoder.latent_shape), "starts.actions": (*many, len(card.actions))}
    if place:
        shapes["starts.places"] = (card.num_starts, place)
    return shapes


def read_tensors(path: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read exactly the expected tensors; names, shapes and dtypes are checked before the first is read."""
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if names != set(expected):
                odd = sorted(names ^ set(expected))[0]
                raise WorldError(f"{path} does not fit its card: the tensor {odd!r} is {'missing' if odd in expected else 'not expected'}.")
            for name, shape in expected.items():
                part = file.get_slice(name)
                if tuple(part.get_shape()) != shape:
                    raise WorldError(f"{path} does not fit its card: {name!r} has shape {part.get_shape()}, expected {list(shape)}.")
                if part.get_dtype() not in FLOATS and not (name == "starts.screens" and part.get_dtype() == "U8"):
                    raise WorldError(f"{path} does not fit its card: {name!r} has the dtype {part.get_dtype()}.")
                if name == "starts.screens" and part.get_dtype() != "U8":
                    raise WorldError(f"{path} does not fit its card: {name!r} must hold bytes.")
            tensors = {name: file.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        raise WorldError(f"{path} is not a readable world file: {error}.") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not all(map(math.isfinite, torch.aminmax(tensor))):  # NaN is both of them
            raise WorldError(f"{path} holds numbers that are not finite in {name!r}.")
    return tensors
