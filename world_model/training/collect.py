"""Collect training data: a scripted player plays the real environment, every episode becomes one session.

Episodes go to ``OUT/train/NNNNN`` and ``OUT/held_out/NNNNN`` (other seeds). A run that was cut goes on where it stopped:
unfinished episodes are made again, finished ones are kept.
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np

from world_model.session import SessionWriter
from world_model.training.maze import ACTIONS, DATA_LICENCE, DATA_SOURCE, FPS, HEIGHT, LOW_CONTRAST, WIDTH, Explorer, Maze

HELD_OUT_SEED = 1 << 20


def run(*, out: Path, frames: int = 200_000, held_out_frames: int = 10_000, seed: int = 0, env: str = "maze") -> int:
    """Collect `frames` training and `held_out_frames` held-out frames into `out`; print what was seen."""
    if env != "maze":
        raise ValueError(f"There is no collector for {env!r}; known is: maze.")
    for split, wanted, first_seed in (("train", frames, seed), ("held_out", held_out_frames, seed + HELD_OUT_SEED)):
        report = _collect(Path(out) / split, wanted, first_seed)
        (Path(out) / f"{split}.json").write_text(json.dumps(report, indent=1))
        print(f"{split}: {report['frames']} frames in {report['episodes']} episodes, low contrast {report['low_contrast']:.1%}")
        print("  share of frames in each room: " + ", ".join(f"{k}: {v:.1%}" for k, v in report["rooms"].items()))
    return 0


def _collect(out: Path, wanted: int, seed: int) -> dict:
    rooms: dict[int, int] = {}
    actions_seen: dict[str, int] = {}
    total = low = episode = 0
    began = time.monotonic()
    while total < wanted:
        directory = out / f"{episode:05d}"
        stats_path = directory / "stats.json"
        if not stats_path.exists():
            shutil.rmtree(directory, ignore_errors=True)
            stats = _episode(directory, seed + episode)
            stats_path.write_text(json.dumps(stats))
        stats = json.loads(stats_path.read_text())
        total, low, episode = total + stats["frames"], low + stats["low_contrast"], episode + 1
        for room, count in stats["rooms"].items():
            rooms[int(room)] = rooms.get(int(room), 0) + count
        for name, count in stats["actions"].items():
            actions_seen[name] = actions_seen.get(name, 0) + count
        if episode % 20 == 0:
            rate = total / (time.monotonic() - began)
            print(f"{total}/{wanted} frames, {rate:.0f} per second, ETA {(wanted - total) / rate:.0f} s, low contrast {low / total:.1%}", flush=True)
    return {
        "episodes": episode,
        "frames": total,
        "low_contrast": low / total,
        "rooms": {k: rooms[k] / total for k in sorted(rooms)},
        "actions": {k: v / total for k, v in sorted(actions_seen.items())},
    }


def _episode(directory: Path, seed: int) -> dict:
    maze, player = Maze(seed), Explorer(np.random.default_rng(seed))
    header = {
        "source": "collect", "world": "maze", "data": DATA_SOURCE, "licence": DATA_LICENCE, "seed": seed,
        "fps": FPS, "width": WIDTH, "height": HEIGHT, "actions": ACTIONS,
    }  # fmt: skip
    rooms: dict[int, int] = {}
    used: dict[str, int] = {}
    low = 0
    frame: np.ndarray | None = maze.reset()
    actions: frozenset[str] = frozenset()
    with SessionWriter(directory, header, lossless=True) as writer:
        while frame is not None:
            writer.append(frame, sorted(actions), state=maze.state)
            low += int(frame.std() < LOW_CONTRAST)
            rooms[maze.room()] = rooms.get(maze.room(), 0) + 1
            for name in actions:
                used[name] = used.get(name, 0) + 1
            actions = player.act(frame, maze.depth)
            frame, _ = maze.step(actions)
        count = writer.num_frames
    maze.close()
    return {"frames": count, "low_contrast": low, "rooms": rooms, "actions": used}
