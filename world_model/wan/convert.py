"""Convert a published checkpoint (``rolling_forcing_dmd.pt``) to a world file, without running any code that the checkpoint might hold.

The published file is a pickle of dictionaries of tensors; torch reads it with ``weights_only=True``, which makes tensors and nothing else. Inside, the weights
lie under ``generator_ema`` (what the authors sample with) or ``generator``, in Wan 2.1's key layout behind the prefixes of training wrappers. Sizes follow from
the shapes, so that a toy in the same layout converts as well; then every key and every shape must be the transformer's.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from world_model.card import Card, WorldError
from world_model.checks import faults
from world_model.context import ContextConfig
from world_model.schedule import warped_ladder
from world_model.stream import WindowConfig
from world_model.transformer import Transformer, TransformerConfig
from world_model.wan.text_world import TextWorld

WEIGHTS = ("generator_ema", "generator")
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
HEAD_WIDTH = 128
PARTS = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WINDOW = WindowConfig(
    ladder=warped_ladder((1000, 800, 600, 400, 200), shift=5.0),
    block_frames=3,
    context=ContextConfig(sink=1, cache=8, attention=7, clean_sees_sink=False),
)


def convert(file: Path, out: Path, *, width: int = 832, height: int = 480, heads: int | None = None, text_len: int = 512, dtype: str = "bfloat16") -> int:
    """Convert a checkpoint, say what came of it, and return 0.

    Args:
        file: the published checkpoint.
        out: the world file to write.
        width, height: of the world's frames, in pixels, multiples of 16.
        heads: attention heads; None: heads are 128 wide.
        text_len: tokens of a prompt.
        dtype: of the weights in the world file, "bfloat16" or "float32".

    Raises:
        WorldError: the file is not such a checkpoint, or the sizes asked for are not possible; one sentence.
    """
    if Path(out).suffix != ".safetensors":
        raise WorldError(f"A world file is named something.safetensors, not {Path(out).name}.")
    kept, weights = read_checkpoint(file)
    config = sizes(weights, file, heads, text_len)
    card = Card(
        format=1, name=re.sub(r"[^a-z0-9_.-]", "-", Path(out).stem.lower()).lstrip("_.-")[:64] or "published", title="Rolling Forcing",
        description="It listens to words: press Enter and type what is to be seen; another prompt at any time leads on from there.",
        data_source=f"converted from {Path(file).name} ({kept})", width=width, height=height, fps=16.0, actions=(), num_starts=0, start_frames=0,
        licence="Published for research: the repository's licence allows academic use only, while its model card says MIT; ask before any other use.",
        transformer=asdict(config), autoencoder={}, window=asdict(WINDOW), rollback=len(WINDOW.ladder) - 1, parts=PARTS,
    )  # fmt: skip
    for fault in faults(card, config, None, WINDOW):
        raise WorldError(f"{file} cannot become a world of {width} x {height}: {fault}.")
    with torch.device("meta"):
        transformer = Transformer(config)
    check(weights, {name: tuple(t.shape) for name, t in transformer.state_dict().items()}, file)
    transformer.load_state_dict(weights, assign=True)
    try:
        TextWorld(card, transformer, WINDOW, None).save(out, getattr(torch, dtype))
    except (OSError, SafetensorError) as error:
        raise WorldError(f"Cannot write {out}: {error}.") from error
    print(f"{out}: {len(weights)} tensors, {sum(t.numel() for t in weights.values()):,} numbers from {kept}, {width} x {height}.")
    return 0


def read_checkpoint(file: Path) -> tuple[str, dict[str, Tensor]]:
    """Return which weights were taken from a checkpoint, and those weights by their names in Wan 2.1's layout.

    Raises:
        WorldError: it cannot be read, holds more than tensors, or has no such weights.
    """
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except OSError as error:
        raise WorldError(f"Cannot read {file}: {error.strerror or error}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WorldError(f"{file} is not a checkpoint of tensors alone, and nothing else is read ({type(error).__name__}).") from error
    kept = next((name for name in WEIGHTS if isinstance(saved, Mapping) and isinstance(saved.get(name), Mapping)), None)
    if kept is None:
        raise WorldError(f"{file} has neither {' nor '.join(WEIGHTS)}; a published checkpoint has one of them at its top.")
    weights: dict[str, Tensor] = {}
    for key, tensor in saved[kept].items():
        name = str(key)
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        name = name.removeprefix("model.")
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or name in weights:
            raise WorldError(f"{file} has {key!r} in {kept}, which is not a tensor of floating point numbers, or is there twice.")
        weights[name] = tensor
    return kept, weights


def sizes(weights: Mapping[str, Tensor], file: Path, heads: int | None, text_len: int) -> TransformerConfig:
    """Return the transformer's sizes as the shapes of its weights tell them."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in weights or weights[name].ndim != axes:
            raise WorldError(f"{file} is not in the layout of Wan 2.1: it has no {name!r} with {axes} axes.")
        return tuple(weights[name].shape)

    dim, channels, _, *patch = shape("patch_embedding.weight", 5)
    return TransformerConfig(
        dim=dim, ffn_dim=shape("blocks.0.ffn.0.weight", 2)[0], num_heads=heads or max(1, dim // HEAD_WIDTH),
        num_layers=len({name.split(".")[1] for name in weights if name.startswith("blocks.")}), in_channels=channels, patch_size=(patch[0], patch[1]),
        freq_dim=shape("time_embedding.0.weight", 2)[1], text_dim=shape("text_embedding.0.weight", 2)[1], text_len=text_len, prediction="velocity",
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
