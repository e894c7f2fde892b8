"""The real maze and its scripted player: ViZDoom's *My Way Home*, the source of the shipped world's training data.

ViZDoom is an optional extra, needed only to make worlds (and to compare a world with the truth). The player explores: it
reads the depth buffer, turns to the more open side before a wall, and otherwise walks, curves, strafes, taps and stands
still in segments of random length. Now and then it walks into a wall on purpose, because people will.
"""

import os
from typing import Any

import numpy as np

ACTIONS = ("turn_left", "turn_right", "forward", "strafe_left", "strafe_right")
WIDTH, HEIGHT, FPS, FRAME_SKIP = 128, 96, 17.5, 2
LOW_CONTRAST = 18.0  # pixel standard deviation below which a frame counts as a stare at a wall
DATA_SOURCE = "ViZDoom My Way Home, rendered with the Freedoom resource files"
DATA_LICENCE = "Freedoom: BSD-3-Clause; ViZDoom: MIT"


class Maze:
    """ViZDoom's My Way Home at 17.5 frames per second, 128 x 96 RGB, with this world's five actions."""

    def __init__(self, seed: int = 0) -> None:
        import vizdoom  # type: ignore[import-untyped]

        game = vizdoom.DoomGame()
        game.load_config(os.path.join(vizdoom.scenarios_path, "my_way_home.cfg"))
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_256X192)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in ("TURN_LEFT", "TURN_RIGHT", "MOVE_FORWARD", "MOVE_LEFT", "MOVE_RIGHT")])
        game.set_available_game_variables([vizdoom.GameVariable.POSITION_X, vizdoom.GameVariable.POSITION_Y, vizdoom.GameVariable.ANGLE])
        game.set_render_weapon(False)
        game.set_render_hud(False)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_depth_buffer_enabled(True)
        game.set_sectors_info_enabled(True)
        game.set_seed(seed)
        game.init()
        self.game = game
        boxes = [np.array([(line.x1, line.y1, line.x2, line.y2) for line in sector.lines]) for sector in game.get_state().sectors]
        self.rooms = np.array([(b[:, ::2].min(), b[:, 1::2].min(), b[:, ::2].max(), b[:, 1::2].max()) for b in boxes])

    def reset(self) -> np.ndarray:
        """Start a new episode at a random place; return its first frame, uint8 [96, 128, 3]."""
        self.game.new_episode()
        return self._observe()

    def step(self, actions: Any) -> tuple[np.ndarray | None, bool]:
        """Hold the named actions for one frame; return (frame, done), without a frame when the episode has ended."""
        self.game.make_action([float(name in actions) for name in ACTIONS], FRAME_SKIP)
        if self.game.is_episode_finished():
            return None, True
        return self._observe(), False

    def _observe(self) -> np.ndarray:
        state = self.game.get_state()
        assert state is not None and state.depth_buffer is not None and state.game_variables is not None, "the episode goes on"
        self.depth = state.depth_buffer
        x, y, angle = state.game_variables
        self.state = {"x": float(x), "y": float(y), "angle": float(angle)}
        pixels = state.screen_buffer.reshape(HEIGHT, 2, WIDTH, 2, 3).astype(np.uint16).sum((1, 3))
        return ((pixels + 2) // 4).astype(np.uint8)

    def room(self) -> int:
        """Return the index of the map sector (room or passage) the player stands in, or -1."""
        x, y = self.state["x"], self.state["y"]
        inside = np.flatnonzero((self.rooms[:, 0] <= x) & (self.rooms[:, 1] <= y) & (x <= self.rooms[:, 2]) & (y <= self.rooms[:, 3]))
        return int(inside[0]) if len(inside) else -1

    def close(self) -> None:
        """End the game process."""
        self.game.close()


class Explorer:
    """A noisy scripted player for `Maze`; everything random comes from the generator that is passed in."""

    NEAR = 9.0  # depth-buffer units; about one player's width in front of the eye

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.actions: frozenset[str] = frozenset()
        self.left = 0  # frames until the next choice
        self.mode = "hold"  # hold | seek (walk to the most open direction) | escape (from a wall) | bump (into it, on purpose)

    def act(self, frame: np.ndarray, depth: np.ndarray) -> frozenset[str]:
        """Choose this frame's actions from the picture [height, width, 3] and the depth buffer [height, width]."""
        height, width = depth.shape
        band = depth[height * 2 // 5 : height * 3 // 5].astype(np.float32)
        near = float(np.median(band[:, width * 2 // 5 : width * 3 // 5])) < self.NEAR
        if (near or frame.std() < LOW_CONTRAST) and self.mode in ("hold", "seek"):
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
        kind = rng.choice(10, p=[0.34, 0.18, 0.10, 0.07, 0.08, 0.07, 0.04, 0.05, 0.06, 0.01])
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
            self._begin("hold", set(), rng.integers(3, 12))
        elif kind == 8:
            self._begin("hold", {str(rng.choice(ACTIONS))}, rng.integers(1, 4))
        else:
            self._begin("hold", set(rng.choice(ACTIONS, size=int(rng.integers(2, 5)), replace=False).tolist()), rng.integers(2, 8))
