"""Sessions as data sets for others: plain numpy arrays, or a LeRobot data set (see `lerobot`)."""

import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from world_model.session import Session, SessionError, action_vectors


def export(directories: list[Path], format: Literal["lerobot", "npz"], out: Path) -> int:
    """Write sessions into the new folder `out`; return the number of frames written.

    Args:
        directories: sessions, or folders of sessions.
        format: ``npz`` writes one file per session, ``lerobot`` one data set of all of them.
        out: a new or empty folder.

    Raises:
        SessionError: a session cannot be read, sessions do not fit together, or the folder cannot be written.
    """
    sessions = [session for session in map(Session, _sessions(directories)) if session.ticks()]
    if not sessions:
        raise SessionError("None of these sessions holds a frame; there is nothing to export.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise SessionError(f"The folder {out} is not empty; give a new one, nothing is overwritten.")
        if format == "lerobot":
            from world_model.lerobot import write

            return write(sessions, out)
        return sum(write_npz(session, out / f"{number:05d}-{session.directory.name}.npz") for number, session in enumerate(sessions))
    except OSError as error:
        raise SessionError(f"Cannot write into {out}: {error.strerror or error}.") from error


def _sessions(directories: list[Path]) -> Iterator[Path]:
    for directory in directories:
        inside = sorted(path.parent for path in Path(directory).glob("*/header.json"))
        yield from inside if inside and not (Path(directory) / "header.json").exists() else [Path(directory)]


def write_npz(session: Session, path: Path) -> int:
    """Write one session as arrays, frame by frame, so that its length costs no memory; return the number of frames.

    ``frames`` uint8 [n, height, width, 3], ``actions`` float32 [n, actions] that led to them, ``rollback`` int64 [n], ``input_s`` and ``flip_s``
    float64 [n] (NaN where unknown), ``vocabulary`` names of the actions, ``fps``. `np.load` reads it without pickle.
    """
    count = sum(1 for _ in session.frames())  # a process that was killed leaves a tape longer than the video
    ticks = session.ticks()[:count]
    count, facts = len(ticks), session.facts
    times = {name: np.array([getattr(tick, name) for tick in ticks], np.float64) for name in ("input_s", "flip_s")}
    arrays = {
        "actions": action_vectors(ticks, session.vocabulary), "rollback": np.array([tick.rollback for tick in ticks], np.int64), **times,
        "vocabulary": np.array(session.vocabulary, np.str_), "fps": np.array(facts.fps),
    }  # fmt: skip
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        with archive.open("frames.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, facts.height, facts.width, 3)}
            np.lib.format.write_array_header_2_0(file, header)
            for frame in islice(session.frames(), count):
                file.write(frame.tobytes())
    return count
