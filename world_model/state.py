"""The state of a stream as a file: what a recording that begins in mid-play begins with, and what a save slot holds.

One safetensors file: the tensors of a snapshot, and its few numbers as JSON in the metadata. Such files come from strangers, so names, shapes and
ranges are checked against the stream that is to take the state before any tensor is read. Nothing is unpickled.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from world_model.card import WorldError, read_metadata

if TYPE_CHECKING:
    from world_model.world import Stream

Number = Annotated[int, Meta(ge=0, lt=1 << 48)]
FLOATS = ("BF16", "F16", "F32")
WINDOW = ("x", "actions", "lived", "last", "x0")
PLACE, VIEW = "place", "view"  # of worlds that recall


class StateError(ValueError):
    """A state that cannot be written or read, or that is not of this world; the message is one sentence for the user."""


class Numbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a state holds besides tensors; seeds are text, for 64 bits are more than JSON promises to keep."""

    format: Literal[1]
    seeds: tuple[Annotated[str, Meta(pattern=r"^[0-9]{1,20}$")], ...]
    frame: Number
    start: Number
    rollbacks: Number


def save_state(path: Path, saved: dict[str, Any]) -> None:
    """Write a snapshot of a stream under a temporary name, then give it its own.

    Raises:
        StateError: it cannot be written.
    """
    window = saved["window"]
    tensors: dict[str, Tensor] = {"screen": torch.from_numpy(saved["screen"]), "clean": window["clean"], **{name: window[name] for name in WINDOW}}
    if bool(window[PLACE].any()):
        tensors |= {name: window[name] for name in (PLACE, VIEW) if window[name] is not None}
    if saved["held"] is not None:
        tensors["held"] = torch.from_numpy(saved["held"])
    for place, name in enumerate("kv" if window["cache"] else ""):  # a stream that has only one picture has no keys and values yet
        tensors[name] = torch.stack([window["cache"][slot][place] for slot in range(len(window["cache"]))])
    seeds = tuple(str(seed) for seed in saved["seeds"])
    numbers = Numbers(1, seeds, saved["frame"], window["start"], window["rollbacks"])
    temporary = path.with_name(path.name + ".part")
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, {"state": msgspec.json.encode(numbers).decode()})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise StateError(f"Cannot write the state {path}: {getattr(error, 'strerror', None) or error}.") from error


def load_state(path: Path, stream: "Stream") -> dict[str, Any]:
    """Read a snapshot for `stream.restore`.

    Raises:
        StateError: the file cannot be read, or does not fit the stream's world.
    """
    try:
        text = read_metadata(path).get("state")
    except WorldError as error:
        raise StateError(f"{path} is not a readable state: {error}") from error
    try:
        numbers = msgspec.json.decode(text if isinstance(text, str) else "", type=Numbers)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise StateError(f"{path} is not the state of a stream: {error}.") from error
    window, now = stream.window, stream.snapshot()
    size, levels, cache = window.config.block_frames, len(window.config.ladder) - 1, window.cache
    if len(numbers.seeds) != len(now["seeds"]) or any(int(seed) >= 1 << 64 for seed in numbers.seeds) or numbers.start < 1:
        raise StateError(f"{path} is the state of another kind of stream.")
    tensors = _read(path, numbers, stream)
    blocks = tensors["x"].shape[1] // size
    screen = tensors.pop("screen").numpy()
    held = tensors.pop("held").numpy() if "held" in tensors else None
    kept = [tensors.pop(name).to(window.device, cache.k.dtype) for name in "kv" if name in tensors]
    unknown = {PLACE: torch.zeros_like(window.place), VIEW: None}
    state: dict[str, Any] = unknown | {name: tensor.to(window.device) for name, tensor in tensors.items()}
    state |= {"start": numbers.start, "rollbacks": numbers.rollbacks, "levels": list(range(levels, levels - blocks, -1))}
    state["cache"] = {slot: (k.clone(), v.clone()) for slot, (k, v) in enumerate(zip(*kept, strict=True))}
    return {"seeds": tuple(int(seed) for seed in numbers.seeds), "frame": numbers.frame, "screen": screen, "held": held, "window": state}


def load_screen(path: Path) -> np.ndarray:
    """Return the picture in a state, uint8 [height, width, 3], or its block with a frame axis before: what is left of it in another world.

    Raises:
        StateError: the file cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            part = file.get_slice("screen")
            if part.get_dtype() == "U8" and len(part.get_shape()) in (3, 4):
                return file.get_tensor("screen").numpy()
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path} is not a readable state: {error}.") from error
    raise StateError(f"{path} holds no picture.")


def _read(path: Path, numbers: Numbers, stream: "Stream") -> dict[str, Tensor]:
    """Return exactly the tensors that a state of this stream has, floats as float32."""
    window, cache = stream.window, stream.window.cache
    frame = tuple(window.last.shape[2:])
    batch, size, actions = len(window.last), window.config.block_frames, window.actions.shape[2]
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            ahead = file.get_slice("x").get_shape()[1] if "x" in names else 0
            if ahead not in (0, size * (len(window.config.ladder) - 1)):
                raise StateError(f"{path} does not fit this world: its window has {ahead} frames.")
            screen = ((batch,) if stream.batched else ()) + ((size,) if ahead and size > 1 else ()) + np.shape(stream.screen)[-3:]
            expected: dict[str, tuple[int, ...]] = {
                "screen": screen, "x": (batch, ahead, *frame), "x0": (batch, ahead, *frame), "actions": (batch, ahead, actions),
                "lived": tuple(window.lived.shape), "last": (batch, 1, *frame), "clean": (batch, size, *frame),
            }  # fmt: skip
            layers, _, slots, *rest = cache.k.shape
            if numbers.start > 1:
                expected |= {name: (min(slots, numbers.start - 1), layers, batch, *rest) for name in "kv"}
            if "held" in names:
                expected["held"] = (batch, actions)
            if PLACE in names and window.model.config.recall_width:
                expected[PLACE] = tuple(window.place.shape)
                if VIEW in names:
                    expected[VIEW] = (batch, 1, frame[0] + 1, *frame[1:])
            if names != set(expected):
                raise StateError(f"{path} does not fit this world: {sorted(names ^ set(expected))[0]!r} is missing or not expected.")
            for name, shape in expected.items():
                part = file.get_slice(name)
                kinds = ("U8",) if name == "screen" else FLOATS
                if tuple(part.get_shape()) != shape or part.get_dtype() not in kinds:
                    raise StateError(f"{path} does not fit this world: {name!r} is {part.get_dtype()} {part.get_shape()}, expected {kinds[-1]} {list(shape)}.")
            tensors = {name: file.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path} is not a readable state: {error}.") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values() if tensor.is_floating_point()):
        raise StateError(f"{path} holds numbers that are not finite.")
    return {name: tensor.float() if tensor.is_floating_point() and name not in "kv" else tensor for name, tensor in tensors.items()}
