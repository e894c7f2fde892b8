"""Sessions as a LeRobot data set, format v3.0: parquet tables, JSON and MP4, as the project's documentation describes them.

One session is one episode with a data and a video file of its own. LeRobot's row t holds what is seen and what is done about it, so it gets frame t of
the session and the action that leads to frame t + 1; the last frame of a session, after which nothing is done, has no row. Needs pyarrow.
"""

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from world_model.session import Session, SessionError, action_vectors

VERSION = "v3.0"
SCREEN = "observation.images.screen"
CHUNK = 1000
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
COUNTERS = ("frame_index", "episode_index", "index", "task_index")


def write(sessions: list[Session], out: Path) -> int:
    """Write sessions of one size, speed and vocabulary into a folder; return the number of rows.

    Raises:
        SessionError: they differ, or pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise SessionError("A LeRobot data set is written by pyarrow, which is not installed; run: pip install pyarrow.") from None
    facts = sessions[0].facts
    if not facts.actions:
        raise SessionError(f"The session {sessions[0].directory} was played with words and has no actions, which a LeRobot data set must have.")
    for session in sessions:
        if any(getattr(session.facts, name) != getattr(facts, name) for name in ("fps", "width", "height", "actions")):
            raise SessionError(f"The session {session.directory} has another size, speed or other actions than {sessions[0].directory}; export them apart.")
    tasks = sorted({_task(session) for session in sessions})
    colours, actions, first = Statistics(), Statistics(), 0
    episodes: list[dict[str, Any]] = []
    for session in sessions:
        place = {"chunk_index": len(episodes) // CHUNK, "file_index": len(episodes) % CHUNK}
        video = out / "videos" / SCREEN / (PLACE.format(**place) + ".mp4")
        video.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(session.file("video.mp4"), video)
        count = 0
        for frame in islice(session.frames(), len(session.ticks())):
            colours.add(frame.reshape(-1, 3) / np.float32(255))
            count += 1
        rows = max(0, count - 1)
        vectors = action_vectors(session.ticks()[1:count], session.vocabulary)
        actions.add(vectors)
        numbers = np.arange(rows)
        columns = {
            "action": list(vectors) if vectors.shape[1] > 1 else vectors[:, 0], "timestamp": (numbers / facts.fps).astype(np.float32), "frame_index": numbers,
            "episode_index": np.full(rows, len(episodes)), "index": first + numbers, "task_index": np.full(rows, tasks.index(_task(session))),
        }  # fmt: skip
        _write_table(out / "data" / (PLACE.format(**place) + ".parquet"), columns)
        episodes.append({
            "episode_index": len(episodes), "tasks": [_task(session)], "length": rows, "dataset_from_index": first, "dataset_to_index": first + rows,
            **{f"data/{name}": value for name, value in place.items()}, **{f"videos/{SCREEN}/{name}": value for name, value in place.items()},
            f"videos/{SCREEN}/from_timestamp": 0.0, f"videos/{SCREEN}/to_timestamp": rows / facts.fps,
            "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
        })  # fmt: skip
        first += rows
    _write_table(out / "meta" / "episodes" / (PLACE.format(chunk_index=0, file_index=0) + ".parquet"), {k: [e[k] for e in episodes] for k in episodes[0]})
    index = "__index_level_0__"  # pandas finds the tasks by their text in this column
    kinds = (("task_index", "task_index", "int64", "int64"), (None, index, "unicode", "object"))
    described = [{"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy, "metadata": None} for name, field, kind, numpy in kinds]
    about = {"index_columns": [index], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
    _write_table(out / "meta" / "tasks.parquet", {"task_index": np.arange(len(tasks)), index: tasks}, {"pandas": json.dumps(about)})
    _write_json(out / "meta" / "stats.json", {"action": actions.figures(), SCREEN: colours.figures((3, 1, 1))})
    _write_json(out / "meta" / "info.json", _info(sessions[0], len(episodes), first, len(tasks)))  # last: half a data set is none
    return first


class Statistics:
    """Smallest, largest, mean and standard deviation of each column of rows [n, columns] that come piece by piece."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(1), np.zeros(1)
        self._low, self._high = np.array([np.inf]), np.array([-np.inf])

    def add(self, rows: np.ndarray) -> None:
        """Take in more rows."""
        if len(rows):
            self._count += len(rows)
            self._sum = self._sum + rows.sum(0, dtype=np.float64)
            self._squares = self._squares + (rows.astype(np.float64) ** 2).sum(0)
            self._low, self._high = np.minimum(self._low, rows.min(0)), np.maximum(self._high, rows.max(0))

    def figures(self, shape: tuple[int, ...] = (-1,)) -> dict[str, list]:
        """Return the figures by LeRobot's names for them, each of this shape."""
        mean = self._sum / max(1, self._count)
        spread = np.sqrt(np.maximum(0, self._squares / max(1, self._count) - mean**2))
        figures = {"min": self._low, "max": self._high, "mean": mean, "std": spread}
        return {**{name: figure.reshape(shape).tolist() for name, figure in figures.items()}, "count": [self._count]}


def _info(session: Session, episodes: int, rows: int, tasks: int) -> dict[str, Any]:
    facts = session.facts
    names = {"dtype": "float32", "shape": [len(facts.actions)], "names": list(facts.actions)}
    video = {"video.height": facts.height, "video.width": facts.width, "video.codec": "h264", "video.fps": facts.fps, "video.channels": 3}
    screen = {"dtype": "video", "shape": [facts.height, facts.width, 3], "names": ["height", "width", "channels"]}
    return {
        "codebase_version": VERSION, "robot_type": "player", "fps": int(facts.fps) if facts.fps == int(facts.fps) else facts.fps,
        "total_episodes": episodes, "total_frames": rows, "total_tasks": tasks,
        "chunks_size": CHUNK, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "splits": {"train": f"0:{episodes}"},
        "data_path": f"data/{PLACE}.parquet", "video_path": "videos/{video_key}/" + PLACE + ".mp4",
        "features": {
            SCREEN: {**screen, "info": {**video, "video.is_depth_map": False, "has_audio": False}}, "action": names,
            "timestamp": {"dtype": "float32", "shape": [1], "names": None}, **{name: {"dtype": "int64", "shape": [1], "names": None} for name in COUNTERS},
        },
    }  # fmt: skip


def _task(session: Session) -> str:
    return f"play the world {session.facts.world}" if session.facts.world else "play"


def _write_table(path: Path, columns: dict[str, Any], about: dict[str, str] | None = None) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(about), path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
