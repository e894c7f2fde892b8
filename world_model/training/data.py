"""Training data: session folders decoded once into flat arrays that can be memory-mapped.

`Clips` serves what the stages need: single frames for the autoencoder, latents with actions for the transformer. The cache beside
the sessions (``cache/frames.npy`` and friends) is rebuilt when the list of sessions changes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from world_model.session import Session, SessionError, action_vectors

STATES = ("x", "y", "angle", "z")
VITALS = ("health", "shots")  # of a player among bodies
BODY = 5  # numbers of one: its own, kind, x, y and angle in degrees


def state_vector(state: Mapping[str, float]) -> list[float]:
    """Return what is known of a player's true state, in the order of STATES; the height of the eye need not be told."""
    return [state["x"], state["y"], state["angle"], state.get("z", 0.0)]


@dataclass(frozen=True)
class Clips:
    """Frames of many sessions laid end to end.

    Attributes:
        frames: uint8 [n, height, width, 3], memory-mapped.
        actions: float32 [n, actions]; row n led to frame n.
        states: float32 [n, 4]: x, y, angle in degrees, and z of the eye (`state_vector`); zeros where unknown.
        vitals: float32 [n, 2]: the player's health and shots; zeros where unknown.
        bodies: float32 [n, most, 5]: what moves by itself (`world_model.real.game`), as many as there are at most; -1 as its number where there are fewer.
        bounds: int64 [sessions + 1]; session s is rows bounds[s] to bounds[s + 1].
        vocabulary: the action names of the columns.
    """

    folder: Path
    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray
    vitals: np.ndarray
    bodies: np.ndarray
    bounds: np.ndarray
    vocabulary: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path, names: Sequence[str] | None = None, cache_name: str = "cache") -> "Clips":
        """Load the sessions in `folder`, or those of these names, decoding them when the cache does not fit.

        Raises:
            SessionError: there are no sessions, or they disagree in size or vocabulary.
        """
        folder = Path(folder)
        sessions = [folder / name for name in (session_names(folder) if names is None else names)]
        if not sessions:
            raise SessionError(f"There are no sessions in {folder}; make some with `collect` or with `play --record`.")
        cache, listing = folder / cache_name, [path.name for path in sessions]
        try:
            meta = json.loads((cache / "meta.json").read_text())
        except (OSError, json.JSONDecodeError):
            meta = {}
        if (meta.get("sessions"), meta.get("states")) != (listing, [*STATES, *VITALS]):
            meta = _decode(sessions, cache)
        names = "actions", "states", "vitals", "bodies", "bounds"
        actions, states, vitals, bodies, bounds = (np.load(cache / f"{name}.npy") for name in names)
        frames = np.load(cache / "frames.npy", mmap_mode="r")[: bounds[-1]]
        return cls(folder, frames, actions, states, vitals, bodies, bounds, tuple(meta["vocabulary"]))

    @property
    def knows_states(self) -> bool:
        """Whether the true states were recorded, in all sessions."""
        return all(self.states[first:end].any() for first, end in pairwise(self.bounds))

    def starts(self, length: int) -> np.ndarray:
        """Return every row at which a clip of `length` frames fits inside one session.

        Raises:
            SessionError: no session is so long.
        """
        rows = np.concatenate([np.arange(a, b - length + 1) for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)])
        if not len(rows):
            raise SessionError(f"No session in {self.folder} is {length} frames long, as a clip for training must be; collect more frames.")
        return rows

    def histories(self, rows: np.ndarray, length: int) -> np.ndarray:
        """Return the last `length` actions up to each row, float32 [..., length, actions]; before the beginning of a session none is held."""
        wanted = rows[..., None] + np.arange(1 - length, 1)
        lived = wanted >= self.bounds[self.session_of(rows)][..., None]
        return self.actions[np.maximum(wanted, 0)] * lived[..., None].astype(np.float32)

    def session_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the index of the session each row belongs to."""
        return np.searchsorted(self.bounds, rows, side="right") - 1


def train_and_held_out(folder: Path) -> tuple[Clips, Clips]:
    """Return the clips to learn from and those to measure on: as `collect` set them apart, or of a folder of recordings every tenth and the last.

    Raises:
        SessionError: there are no sessions, fewer than two, or they disagree in size or vocabulary.
    """
    names = session_names(folder)
    if not names:
        return Clips.load(folder / "train"), Clips.load(folder / "held_out")
    if len(names) < 2:
        raise SessionError(f"There is one session in {folder}; to learn from some and measure on others, record at least two.")
    held_out = sorted({*names[9::10], names[-1]})
    return Clips.load(folder, [name for name in names if name not in held_out], "cache_train"), Clips.load(folder, held_out, "cache_held_out")


def session_names(folder: Path) -> list[str]:
    """Return the names of the sessions in a folder."""
    return sorted(path.parent.name for path in folder.glob("*/header.json"))


def _decode(sessions: list[Path], cache: Path) -> dict:
    """Decode all videos into `cache`; return the cache's description."""
    cache.mkdir(exist_ok=True)
    (cache / "meta.json").unlink(missing_ok=True)
    first = Session(sessions[0])
    vocabulary, size = first.vocabulary, (first.header["height"], first.header["width"], 3)
    tapes = []
    for path in sessions:
        session = Session(path)
        if session.vocabulary != vocabulary or (session.header["height"], session.header["width"], 3) != size:
            raise SessionError(f"{path} has another frame size or other actions than {sessions[0]}; train on sessions of one world.")
        tapes.append(session.ticks())
    total = sum(len(tape) for tape in tapes)
    frames = np.lib.format.open_memmap(cache / "frames.npy", mode="w+", dtype=np.uint8, shape=(total, *size))
    actions = np.zeros((total, len(vocabulary)), np.float32)
    states = np.zeros((total, len(STATES)), np.float32)
    vitals = np.zeros((total, len(VITALS)), np.float32)
    crowds: list[list[list[float]]] = []  # the bodies of every frame
    bounds = [0]
    for index, (path, tape) in enumerate(zip(sessions, tapes, strict=True)):
        row = bounds[-1]
        count = 0
        for frame in Session(path).frames():
            if count == len(tape):
                break
            frames[row + count] = frame
            count += 1
        actions[row : row + count] = action_vectors(tape[:count], vocabulary)
        truth = Session(path).states()[:count]
        if truth:
            states[row : row + len(truth)] = [state_vector(state) for state in truth]
            vitals[row : row + len(truth)] = [[state.get(name, 0.0) for name in VITALS] for state in truth]
        crowds += [state.get("bodies", []) for state in truth] + [[]] * (count - len(truth))
        bounds.append(row + count)
        if index % 20 == 0:
            print(f"decoding session {index + 1}/{len(sessions)}, {bounds[-1]}/{total} frames", flush=True)
    frames.flush()
    np.save(cache / "actions.npy", actions[: bounds[-1]])
    np.save(cache / "states.npy", states[: bounds[-1]])
    np.save(cache / "vitals.npy", vitals[: bounds[-1]])
    bodies = np.full((bounds[-1], max(map(len, crowds), default=0), BODY), -1, np.float32)
    for known, crowd in zip(bodies, crowds, strict=True):
        known[: len(crowd)] = crowd or known[:0]
    np.save(cache / "bodies.npy", bodies)
    np.save(cache / "bounds.npy", np.array(bounds))
    meta = {"sessions": [path.name for path in sessions], "vocabulary": vocabulary, "states": [*STATES, *VITALS]}
    (cache / "meta.json.part").write_text(json.dumps(meta))
    os.replace(cache / "meta.json.part", cache / "meta.json")
    return meta
