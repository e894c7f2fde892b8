"""Convert a published checkpoint to a world file, without running any code that the checkpoint might hold.

Rolling Forcing's ``rolling_forcing_dmd.pt`` is a pickle of dictionaries of tensors; torch reads it with ``weights_only=True``, which makes tensors and nothing
else. Inside, the weights lie under ``generator_ema`` (what the authors sample with) or ``generator``, in Wan 2.1's key layout behind the prefixes of training
wrappers. Matrix-Game 2.0's are safetensors files, in the same layout and with action modules. Sizes follow from the shapes, so that a toy in the same layout
converts as well; then every key and every shape must be the network's.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from world_model.card import ActionSpec, Card, WorldError
from world_model.checks import faults
from world_model.context import ContextConfig
from world_model.schedule import warped_ladder
from world_model.stream import WindowConfig
from world_model.transformer import Transformer, TransformerConfig
from world_model.wan.key_world import KeyWorld
from world_model.wan.matrix_game import MASK_CHANNELS, RAW_FRAMES, MatrixGame, MatrixGameConfig
from world_model.wan.text_world import TextWorld
from world_model.world import World

WEIGHTS = ("generator_ema", "generator")
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
HEAD_WIDTH = 128
WINDOW = WindowConfig(
    ladder=warped_ladder((1000, 800, 600, 400, 200), shift=5.0),
    block_frames=3,
    context=ContextConfig(sink=1, cache=8, attention=7, clean_sees_sink=False),
)


@dataclass(frozen=True)
class Kind:
    """What is the same in all worlds of a kind."""

    title: str
    description: str
    licence: str
    width: int
    height: int
    fps: float
    window: WindowConfig
    rollback: int
    parts: str


ROLLING_FORCING = Kind(
    title="Rolling Forcing",
    description="It listens to words: press Enter and type what is to be seen; another prompt at any time leads on from there.",
    licence="Published for research: the repository's licence allows academic use only, while its model card says MIT; ask before any other use.",
    width=832, height=480, fps=16.0, window=WINDOW, rollback=len(WINDOW.ladder) - 1, parts="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
)  # fmt: skip
MATRIX_GAME = Kind(
    title="Matrix-Game 2.0", description="It begins from a picture and obeys keys.", licence="MIT (Skywork AI).", width=640, height=352, fps=25.0,
    window=WindowConfig(warped_ladder((1000, 666, 333), shift=5.0), 3, ContextConfig(sink=0, cache=2, attention=2, clean_sees_sink=False)), rollback=0,
    parts="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
)  # fmt: skip


@dataclass(frozen=True)
class KeyLayout:
    """What the keys of a published world with action modules mean, as `MatrixGameConfig` has it."""

    actions: tuple[ActionSpec, ...]
    mouse: tuple[tuple[float, float], ...] = ()
    idle_key: bool = False


def _actions(**keys: str) -> tuple[ActionSpec, ...]:
    return tuple(ActionSpec(name, tuple(key.split()), name.replace("_", " ")) for name, key in keys.items())


MOUSE = 0.1  # how far it moves while a key looks around
LAYOUTS = {  # by the number of keys that the network knows
    4: KeyLayout(
        _actions(forward="w", back="s", left="a", right="d", look_up="up", look_down="down", look_left="left", look_right="right"),
        ((MOUSE, 0.0), (-MOUSE, 0.0), (0.0, -MOUSE), (0.0, MOUSE)),
    ),
    2: KeyLayout(_actions(forward="w up", back="s down", steer_left="a left", steer_right="d right"), ((0.0, -MOUSE), (0.0, MOUSE))),
    7: KeyLayout(_actions(jump="w up", slide="s down", turn_left="z", turn_right="c", left="a left", right="d right"), idle_key=True),
}


def convert(
    file: Path,
    out: Path,
    *,
    width: int | None = None,
    height: int | None = None,
    heads: int | None = None,
    text_len: int | None = None,
    dtype: str = "bfloat16",
    pictures: tuple[Path, ...] = (),
) -> int:
    """Convert a checkpoint, say what came of it, and return 0.

    Args:
        file: the published checkpoint.
        out: the world file to write.
        width, height: of the world's frames, in pixels, multiples of 16; None: as published.
        heads: attention heads; None: heads are 128 wide.
        text_len: tokens of a prompt, or of a start picture's features; None: as published.
        dtype: of the weights in the world file, "bfloat16" or "float32".
        pictures: what streams can start from, for worlds that begin from a picture.

    Raises:
        WorldError: the file is not such a checkpoint, or the sizes asked for are not possible; one sentence.
    """
    if Path(out).suffix != ".safetensors":
        raise WorldError(f"A world file is named something.safetensors, not {Path(out).name}.")
    kept, weights = read_checkpoint(file)
    config = sizes(weights, file, heads, text_len)
    game = config if isinstance(config, MatrixGameConfig) else None
    if bool(pictures) != bool(game):
        raise WorldError(f"{file} {'needs pictures to start from; give them by' if game else 'begins from nothing, and has no use for'} --pictures.")
    kind = MATRIX_GAME if game else ROLLING_FORCING
    width, height = width or kind.width, height or kind.height
    card = Card(
        format=1, name=re.sub(r"[^a-z0-9_.-]", "-", Path(out).stem.lower()).lstrip("_.-")[:64] or "published", title=kind.title,
        description=kind.description, licence=kind.licence, data_source=f"converted from {Path(file).name} ({kept})",
        width=width, height=height, fps=kind.fps, actions=LAYOUTS[game.num_keys].actions if game else (), num_starts=len(pictures), start_frames=0,
        transformer=asdict(config), autoencoder={}, window=asdict(kind.window), rollback=kind.rollback, parts=kind.parts,
    )  # fmt: skip
    for fault in faults(card, config, None, kind.window):
        raise WorldError(f"{file} cannot become a world of {width} x {height}: {fault}.")
    with torch.device("meta"):
        transformer = MatrixGame(game) if game else Transformer(config)
    check(weights, {name: tuple(t.shape) for name, t in transformer.state_dict().items()}, file)
    transformer.load_state_dict(weights, assign=True)
    screens = torch.from_numpy(np.stack([read_picture(picture, width, height) for picture in pictures])) if pictures else None
    world: World = TextWorld(card, transformer, kind.window, None)
    if isinstance(transformer, MatrixGame) and screens is not None:
        world = KeyWorld(card, transformer, kind.window, {"screens": screens}, None)
    try:
        world.save(out, getattr(torch, dtype))
    except (OSError, SafetensorError) as error:
        raise WorldError(f"Cannot write {out}: {error}.") from error
    print(f"{out}: {len(weights)} tensors, {sum(t.numel() for t in weights.values()):,} numbers from {kept}, {width} x {height}.")
    return 0


def read_picture(path: Path, width: int, height: int) -> np.ndarray:
    """Return a picture cut about its middle to the shape of a frame and brought to its size, uint8 [height, width, 3]."""
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.BILINEAR))
    except (OSError, ValueError) as error:
        raise WorldError(f"Cannot read the picture {path}: {getattr(error, 'strerror', None) or error}.") from error


def read_checkpoint(file: Path) -> tuple[str, dict[str, Tensor]]:
    """Return which weights were taken from a checkpoint, and those weights by their names in Wan 2.1's layout.

    Raises:
        WorldError: it cannot be read, holds more than tensors, or has no such weights.
    """
    if Path(file).suffix == ".safetensors":
        try:
            return "model", _named(file, "model", load_file(file))
        except (OSError, SafetensorError) as error:
            raise WorldError(f"Cannot read {file}: {getattr(error, 'strerror', None) or error}.") from error
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except OSError as error:
        raise WorldError(f"Cannot read {file}: {error.strerror or error}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WorldError(f"{file} is not a checkpoint of tensors alone, and nothing else is read ({type(error).__name__}).") from error
    kept = next((name for name in WEIGHTS if isinstance(saved, Mapping) and isinstance(saved.get(name), Mapping)), None)
    if kept is None:
        raise WorldError(f"{file} has neither {' nor '.join(WEIGHTS)}; a published checkpoint has one of them at its top.")
    return kept, _named(file, kept, saved[kept])


def _named(file: Path, kept: str, saved: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return weights by their names in Wan 2.1's layout, without the prefixes of wrappers."""
    weights: dict[str, Tensor] = {}
    for key, tensor in saved.items():
        name = str(key)
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        name = name.removeprefix("model.")
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or name in weights:
            raise WorldError(f"{file} has {key!r} in {kept}, which is not a tensor of floating point numbers, or is there twice.")
        weights[name] = tensor
    return weights


def sizes(weights: Mapping[str, Tensor], file: Path, heads: int | None, text_len: int | None) -> TransformerConfig:
    """Return the transformer's sizes as the shapes of its weights tell them."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in weights or weights[name].ndim != axes:
            raise WorldError(f"{file} is not in the layout of Wan 2.1: it has no {name!r} with {axes} axes.")
        return tuple(weights[name].shape)

    dim, channels, _, *patch = shape("patch_embedding.weight", 5)
    known: dict[str, Any] = {
        "dim": dim, "ffn_dim": shape("blocks.0.ffn.0.weight", 2)[0], "num_heads": heads or max(1, dim // HEAD_WIDTH),
        "num_layers": len({name.split(".")[1] for name in weights if name.startswith("blocks.")}), "patch_size": (patch[0], patch[1]),
        "freq_dim": shape("time_embedding.0.weight", 2)[1], "prediction": "velocity",
    }  # fmt: skip
    if not any(".action_model." in name for name in weights):
        return TransformerConfig(**known, in_channels=channels, text_dim=shape("text_embedding.0.weight", 2)[1], text_len=text_len or 512)
    first = "blocks.0.action_model"
    key_dim, keys = shape(f"{first}.keyboard_embed.0.weight", 2)
    if keys not in LAYOUTS:
        raise WorldError(f"{file} knows {keys} keys; the published worlds of this kind have {', '.join(map(str, LAYOUTS))}.")
    width, layout = shape(f"{first}.mouse_attn_q.weight", 2)[0], LAYOUTS[keys]
    return MatrixGameConfig(
        **known, in_channels=(channels - MASK_CHANNELS) // 2, text_dim=shape("img_emb.proj.1.weight", 2)[1], text_len=text_len or 257,
        num_actions=len(layout.actions), action_history=len(RAW_FRAMES), action_dim=width, key_dim=key_dim, mouse=layout.mouse, idle_key=layout.idle_key,
        action_heads=max(1, width // max(1, shape(f"{first}.key_attn_q_norm.weight", 1)[0])),
        action_layers=len({name.split(".")[1] for name in weights if ".action_model." in name}),
    )  # fmt: skip


def check(weights: Mapping[str, Tensor], table: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Check that the weights are exactly those of the table, by name and shape, and finite.

    Raises:
        WorldError: naming the first that is not.
    """
    for name in sorted(weights.keys() ^ table.keys()):
        raise WorldError(f"{file} has {len(weights)} tensors, of which {len(table)} are expected; {name!r} is {'missing' if name in table else 'too many'}.")
    for name, shape in table.items():
        if tuple(weights[name].shape) != shape:
            raise WorldError(f"{file} has {name!r} in the shape {tuple(weights[name].shape)}; expected is {shape}.")
        if not bool(torch.isfinite(weights[name]).all()):
            raise WorldError(f"{file} has numbers in {name!r} that are not finite.")
