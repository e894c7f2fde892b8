"""The origin of a world: what its card will say that no training can tell. `collect` writes it beside the sessions, `train` reads it there."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from world_model.card import ActionSpec, Name, Text

FILE = "world.json"
MAX_BYTES = 1 << 20
SIDE_STEP, LONGEST_SIDE = 16, 512  # sides are multiples of the one, so that a grid of latents can be cut into tokens


class OriginError(ValueError):
    """An origin that cannot be read, or is another world's; the message is one sentence for the user."""


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part of a card that is known before there is a world; the fields mean what they mean in `world_model.card.Card`."""

    name: Name
    title: Annotated[str, Meta(min_length=1, max_length=80)]
    description: Text = ""
    data_source: Text
    licence: Annotated[str, Meta(min_length=1, max_length=400)]
    width: Annotated[int, Meta(ge=2 * SIDE_STEP, le=LONGEST_SIDE, multiple_of=SIDE_STEP)]
    height: Annotated[int, Meta(ge=2 * SIDE_STEP, le=LONGEST_SIDE, multiple_of=SIDE_STEP)]
    fps: Annotated[float, Meta(gt=0.1, le=240)]
    actions: Annotated[tuple[ActionSpec, ...], Meta(min_length=1, max_length=64)]

    @property
    def action_names(self) -> tuple[str, ...]:
        """The world's vocabulary, in the order of its action vectors."""
        return tuple(action.name for action in self.actions)

    @property
    def frames(self) -> tuple[object, ...]:
        """What its sessions must have in common with those of another run: the name, the size and rate of frames, the actions and how they are held."""
        return self.name, self.height, self.width, self.fps, tuple((action.name, action.analogue) for action in self.actions)

    def write(self, folder: Path) -> None:
        """Write the origin into a folder of sessions.

        Raises:
            OriginError: it is not valid, or the folder holds the sessions of something else or cannot be written.
        """
        path, text = folder / FILE, msgspec.json.encode(self)
        try:
            msgspec.json.decode(text, type=Origin)
        except msgspec.ValidationError as error:
            raise OriginError(f"This cannot become a world: {error}.") from error
        if path.exists():
            there = Origin.read(folder)
            if there.frames != self.frames:
                raise OriginError(f"{folder} holds sessions of {there.name} with other actions, frame size or frame rate; give another folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".part").write_bytes(msgspec.json.format(text, indent=1))
            os.replace(path.with_suffix(".part"), path)
        except OSError as error:
            raise OriginError(f"Cannot write {path}: {error.strerror or error}.") from error

    @classmethod
    def read(cls, folder: Path) -> "Origin":
        """Read the origin of a folder of sessions.

        Raises:
            OriginError: there is none, or it is not valid.
        """
        path = folder / FILE
        try:
            with open(path, "rb") as file:
                return msgspec.json.decode(file.read(MAX_BYTES), type=cls)
        except OSError as error:
            raise OriginError(f"Cannot read {path}, which `collect` writes beside the sessions: {error.strerror or error}.") from error
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise OriginError(f"{path} does not describe a world: {error}.") from error
