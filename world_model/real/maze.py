"""The real maze and its scripted player: ViZDoom's *My Way Home*.

The player explores: it reads the depth buffer, turns to the more open side before a wall, and otherwise walks, curves, strafes, taps and stands
still in segments of random length. Now and then it walks into a wall on purpose, or for seconds does not look where it goes at all, because people will.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from world_model.card import ActionSpec
from world_model.real.doom import FPS, HEIGHT, LICENCE, WIDTH, Doom
from world_model.real.game import Source
from world_model.real.origin import Origin
from world_model.real.restless import Restless

ORIGIN = Origin(
    name="maze",
    title="Doom maze",
    description="Walk through the rooms of ViZDoom's My Way Home. There is no game code: every frame is denoised while you play.",
    data_source="ViZDoom My Way Home, rendered with the Freedoom resource files",
    licence=LICENCE,
    width=WIDTH,
    height=HEIGHT,
    fps=FPS,
    actions=(
        ActionSpec("turn_left", ("left",), "Turn left"),
        ActionSpec("turn_right", ("right",), "Turn right"),
        ActionSpec("forward", ("up", "w"), "Walk"),
        ActionSpec("strafe_left", ("a",), "Step left"),
        ActionSpec("strafe_right", ("d",), "Step right"),
    ),
)
ACTIONS = ORIGIN.action_names
LOW_CONTRAST = 18.0  # pixel standard deviation below which a frame is a stare at a wall


class Maze(Doom):
    """ViZDoom's My Way Home with this world's five actions."""

    def __init__(self) -> None:
        buttons = dict(zip(ACTIONS, ("TURN_LEFT", "TURN_RIGHT", "MOVE_FORWARD", "MOVE_LEFT", "MOVE_RIGHT"), strict=True))
        super().__init__("my_way_home", buttons, {"z": "CAMERA_POSITION_Z"}, render_weapon=False, depth_buffer_enabled=True, sectors_info_enabled=True)
        boxes = [np.array([(line.x1, line.y1, line.x2, line.y2) for line in sector.lines]) for sector in self.game.get_state().sectors]
        self.rooms = np.array([(b[:, ::2].min(), b[:, 1::2].min(), b[:, ::2].max(), b[:, 1::2].max()) for b in boxes])

    def step(self, actions: Collection[str]) -> np.ndarray | None:
        frame = super().step(actions)
        if frame is not None:
            self.tally.update({f"frames in room {self.room()}": 1, "stares at a wall": int(frame.std() < LOW_CONTRAST)})
        return frame

    @property
    def depth(self) -> np.ndarray:
        """The depth buffer [192, 256]."""
        return self.seen.depth_buffer

    def room(self) -> int:
        """Return the index of the map sector (room or passage) the player stands in, or -1."""
        assert self.state is not None
        x, y = self.state["x"], self.state["y"]
        inside = np.flatnonzero((self.rooms[:, 0] <= x) & (self.rooms[:, 1] <= y) & (x <= self.rooms[:, 2]) & (y <= self.rooms[:, 3]))
        return int(inside[0]) if len(inside) else -1


class Explorer:
    """A noisy scripted player for `Maze`; everything random comes from the generator that is passed in."""

    NEAR = 9.0  # depth-buffer units; about one player's width in front of the eye

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.actions: frozenset[str] = frozenset()
        self.left = 0  # frames until the next choice
        self.mode = "hold"  # hold | seek (walk to the most open direction) | escape (from a wall) | bump (into it, on purpose) | any (whatever fingers do)
        self.restless = Restless(ORIGIN.actions, rng)

    def act(self, game: Maze, frame: np.ndarray) -> frozenset[str]:
        """Choose the next frame's actions from the picture [height, width, 3] and the depth buffer."""
        depth = game.depth
        height, width = depth.shape
        band = depth[height * 2 // 5 : height * 3 // 5].astype(np.float32)
        near = float(np.median(band[:, width * 2 // 5 : width * 3 // 5])) < self.NEAR
        stares = bool(frame.std() < LOW_CONTRAST)
        if ((near or stares) and self.mode in ("hold", "seek")) or (stares and self.mode == "any" and self.rng.random() < 0.1):
            if near and self.rng.random() < 0.05:
                self._begin("bump", {"forward"}, self.rng.integers(4, 12))
            else:
                open_left = float(band[:, : width // 3].mean()) > float(band[:, -width // 3 :].mean())
                side = "left" if open_left != (self.rng.random() < 0.15) else "right"
                self._begin("escape", {f"turn_{side}"} | ({f"strafe_{side}"} if self.rng.random() < 0.25 else set()), self.rng.integers(6, 18))
        elif self.left <= 0:
            self._choose()
        if self.mode == "seek":
            self._seek(frame, band, near)
        elif self.mode == "any":
            self.actions = frozenset(self.restless.act(game, frame))
        self.left -= 1
        return self.actions

    def _begin(self, mode: str, actions: set[str], frames: Any) -> None:
        self.mode, self.actions, self.left = mode, frozenset(actions), int(frames)

    def _seek(self, frame: np.ndarray, band: np.ndarray, near: bool) -> None:
        """Steer towards the deepest part of the view where there is something to see, as a person looking for a door does."""
        contrast = frame.astype(np.float32).mean(2).reshape(len(frame), 16, -1).std((0, 2))
        columns = band.mean(0).reshape(16, -1).mean(1) * (contrast + 2)
        offset = (int(columns.argmax()) - 7.5) / 8
        actions = set() if near else {"forward"}
        if abs(offset) > 0.3:
            actions.add("turn_left" if offset < 0 else "turn_right")
        self.actions = frozenset(actions or {"turn_left"})

    def _choose(self) -> None:
        rng = self.rng
        turn = str(rng.choice(["turn_left", "turn_right"]))
        strafe = str(rng.choice(["strafe_left", "strafe_right"]))
        kind = rng.choice(10, p=[0.34, 0.18, 0.10, 0.06, 0.07, 0.07, 0.04, 0.03, 0.06, 0.05])
        if kind == 0:
            self._begin("seek", set(), rng.integers(8, 40))
        elif kind == 1:
            self._begin("hold", {"forward"}, rng.integers(6, 26))
        elif kind == 2:
            self._begin("hold", {"forward", turn}, rng.integers(4, 16))
        elif kind == 3:
            self._begin("hold", {turn}, rng.integers(3, 18))
        elif kind == 4:
            self._begin("hold", {strafe}, rng.integers(4, 14))
        elif kind == 5:
            self._begin("hold", {"forward", strafe}, rng.integers(4, 14))
        elif kind == 6:
            self._begin("hold", {turn, strafe}, rng.integers(4, 14))
        elif kind == 7:
            self._begin("hold", set(), rng.integers(3, 12) if rng.random() < 0.8 else rng.integers(20, 150))  # a person stops to think, too
        elif kind == 8:
            self._begin("hold", {str(rng.choice(ACTIONS))}, rng.integers(1, 4))
        else:
            self._begin("any", set(), rng.integers(16, 64))


SOURCE = Source(ORIGIN, Maze, Explorer, "vizdoom")
