"""The card of a world: everything about a world file that can be known without torch, its first start picture included.

A world is one safetensors file; its card is JSON in the file's metadata. It comes from strangers, so it is decoded into frozen, typed
structures with ranges, from a header of bounded size.
"""

import json
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    import numpy as np

MAX_CARD_BYTES = 1 << 20
MAX_HEADER_BYTES = 8 << 20
SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "worlds"

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Text = Annotated[str, Meta(max_length=4000)]
Count = Annotated[int, Meta(ge=1, le=1 << 20)]


class WorldError(ValueError):
    """A world that cannot be found, read or played; the message is one sentence for the user."""


class ActionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One action of a world and the keys (US layout names) that mean it by default; an ``analogue`` one may be held partly."""

    name: Name
    keys: Annotated[tuple[Name, ...], Meta(max_length=8)]
    label: Annotated[str, Meta(max_length=40)]
    analogue: bool = False


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A world's description. ``transformer``, ``autoencoder`` and ``window`` are checked further when the world is loaded.

    ``rollback`` is by how many levels the window goes back when the player changes his mind, unless he asks for another number. ``parts`` is empty for
    worlds that hold all of themselves; a published world names the repository of the Hugging Face hub that its encoder and video autoencoder come from.
    """

    format: Literal[1]
    name: Name
    title: Annotated[str, Meta(min_length=1, max_length=80)]
    description: Text
    data_source: Text
    licence: Annotated[str, Meta(min_length=1, max_length=400)]
    width: Annotated[int, Meta(ge=16, le=4096)]
    height: Annotated[int, Meta(ge=16, le=4096)]
    fps: Annotated[float, Meta(gt=0.1, le=240)]
    actions: Annotated[tuple[ActionSpec, ...], Meta(max_length=64)]
    num_starts: Annotated[int, Meta(ge=0, le=1024)]
    start_frames: Annotated[int, Meta(ge=0, le=256)]
    transformer: dict[str, Any]
    autoencoder: dict[str, Any]
    window: dict[str, Any]
    rollback: Annotated[int, Meta(ge=0, le=31)] = 0
    parts: Annotated[str, Meta(max_length=200, pattern=r"^([A-Za-z0-9][\w.-]*/[\w.-]+)?$")] = ""
    figures: dict[str, float | str] = {}

    @property
    def action_names(self) -> tuple[str, ...]:
        """The world's vocabulary, in the order of its action vectors."""
        return tuple(action.name for action in self.actions)

    @property
    def listens(self) -> bool:
        """Whether the world obeys words and not keys."""
        return bool(self.parts) and not self.actions

    @property
    def max_rollback(self) -> int:
        """The deepest rollback: it drops the whole window."""
        ladder = self.window.get("ladder")
        return max(0, len(ladder) - 1) if isinstance(ladder, list | tuple) else 0


def read_card(path: Path) -> Card:
    """Read and validate the card of a world file without reading its tensors.

    Raises:
        WorldError: the file is not a world; the message says why.
    """
    return parse_card(read_metadata(path).get("card"), path)


def parse_card(text: Any, path: Path) -> Card:
    """Validate a card's JSON text."""
    if not isinstance(text, str):
        raise WorldError(f"{path} is not a world file: its metadata has no card.")
    if len(text) > MAX_CARD_BYTES:
        raise WorldError(f"{path} has a card of {len(text)} characters; at most {MAX_CARD_BYTES} are allowed.")
    try:
        card = msgspec.json.decode(text, type=Card)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WorldError(f"{path} has a card that is not valid: {error}.") from error
    if len(set(card.action_names)) != len(card.actions):
        raise WorldError(f"{path} has a card that names an action twice.")
    return card


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a safetensors file, reading a header of bounded size."""
    try:
        with open(path, "rb") as file:
            prefix = file.read(8)
            size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= size <= min(MAX_HEADER_BYTES, max(0, os.fstat(file.fileno()).st_size - 8)):
                raise WorldError(f"{path} is not a world file: it has no safetensors header.")
            header = json.loads(file.read(size))
    except OSError as error:
        raise WorldError(f"Cannot read the world {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, WorldError):
            raise
        raise WorldError(f"{path} is not a world file: its header is not valid JSON.") from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return metadata if isinstance(metadata, dict) else {}


def read_screen(path: Path, card: Card) -> "np.ndarray | None":
    """Return the first start picture of a world file, uint8 [height, width, 3], and read nothing else; None if it has none.

    Raises:
        WorldError: the file is cut, or does not fit its card.
    """
    from safetensors import SafetensorError, safe_open

    if not card.num_starts:
        return None
    try:
        with safe_open(path, "np") as file:
            screens = file.get_slice("starts.screens")
            if screens.get_dtype() == "U8" and tuple(screens.get_shape()) == (card.num_starts, card.height, card.width, 3):
                return screens[0]
    except (OSError, SafetensorError) as error:
        raise WorldError(f"{path} is not a readable world file: {error}.") from error
    raise WorldError(f"{path} does not fit its card: its start pictures are not {card.width} x {card.height} bytes.")


def user_folder() -> Path:
    """Return the folder for the player's own worlds, recordings and screenshots."""
    base = os.environ.get("XDG_DATA_HOME") or (os.environ.get("APPDATA") if os.name == "nt" else None)
    return Path(base or Path.home() / ".local" / "share") / "rolling-worlds"


def world_files() -> list[Path]:
    """Return the files that ship or lie in the user's folder."""
    return [path for folder in (SHIPPED, user_folder() / "worlds") for path in sorted(folder.glob("*.safetensors"))]


def list_worlds() -> list[tuple[Path, Card | WorldError]]:
    """Return every world file that ships or lies in the user's folder, with its card or what is wrong with it."""
    found: list[tuple[Path, Card | WorldError]] = []
    for path in world_files():
        try:
            found.append((path, read_card(path)))
        except WorldError as error:
            found.append((path, error))
    return found


def find_world(name_or_path: str) -> Path:
    """Return the file of a world given by its path or by its name.

    Raises:
        WorldError: there is no such file and no such name.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        if path.is_file():
            return path
        raise WorldError(f"There is no world file {path}.")
    worlds = list_worlds()
    for path, _ in worlds:
        if path.stem == name_or_path:
            return path
    names = ", ".join(path.stem for path, _ in worlds) or "none"
    raise WorldError(f"There is no world named {name_or_path!r}; worlds to choose from: {names}.")
