"""The real race track and its scripted player: Gymnasium's CarRacing, seen from above.

Steering, gas and brake are analogue. The player mostly follows the road, faster or slower, with keys or with a stick and triggers. Now and then it steers
off it and comes back (or does not), drives straight on across the field, brakes, stands, or presses anything.
All drive on one circuit, as all walk through one maze, and lap after lap: what comes into the picture can be known then. They begin anywhere on it, in either
direction, and some beside it; there is a fence around the field. Needs ``gymnasium[box2d]``, an optional extra.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

from world_model.card import ActionSpec
from world_model.real.game import Source, share
from world_model.real.origin import Origin
from world_model.real.restless import STEPS, Moody

GAME_FPS, FRAME_SKIP = 50, 3
ORIGIN = Origin(
    name="racing",
    title="Race track",
    description="Drive: steer, accelerate and brake on a circuit of Gymnasium's CarRacing. There is no game code behind the picture.",
    data_source="Gymnasium CarRacing-v3",
    licence="Weights: Apache-2.0. Training data: Gymnasium (MIT).",
    width=128,
    height=96,
    fps=GAME_FPS / FRAME_SKIP,
    actions=(
        ActionSpec("steer_left", ("left", "a"), "Steer left", analogue=True),
        ActionSpec("steer_right", ("right", "d"), "Steer right", analogue=True),
        ActionSpec("gas", ("up", "w"), "Accelerate", analogue=True),
        ActionSpec("brake", ("down", "s", "space"), "Brake", analogue=True),
    ),
)
ACTIONS = ORIGIN.action_names
STEER, GAS, BRAKE = 0.25, 0.4, 0.6  # what a key, or a stick all the way, is worth to the game; all that it offers would spin the car at once
CIRCUIT = 22  # the seed of its track
BACKWARDS, ASTRAY = 0.3, 0.15  # the shares of those who begin against its direction, and of those who begin anywhere on the field
FIELD = 285.0  # from its middle to the fence, in the game's units
ZOOMED_IN = 1.0  # seconds: in the first the game zooms in from far above
VIEW = 61.7, 49.4, 0.25  # width and height of the picture, in the game's units; how far from its lower edge the car is, in heights
IN_SIGHT = 75.0  # in the game's units, farther than the corners of the picture
MOODS = {
    "follow": (0.56, 40, 200), "leave": (0.12, 8, 50), "roam": (0.04, 60, 250), "brake": (0.06, 4, 50), "roll": (0.06, 5, 160), "any": (0.16, 10, 40),
}  # fmt: skip
SCORE = slice(85, 95), slice(0, 15)  # rows and columns of a number that only a program could count


class Racing:
    """Gymnasium's CarRacing at 16.7 frames per second, 128 x 96 RGB, with this world's four actions, on one circuit and without an end."""

    def __init__(self) -> None:
        self.game = _open()
        self.state: dict[str, Any] | None = None
        self.tally: Counter[str] = Counter()

    def reset(self, seed: int) -> np.ndarray:
        """Begin at the point of the circuit or the field and in the direction that `seed` means; return the first frame, uint8 [96, 128, 3]."""
        self.tally, rng = Counter(), np.random.default_rng(seed)
        self.game.reset(seed=CIRCUIT)
        _, angle, x, y = self.game.track[rng.integers(len(self.game.track))]
        angle += np.pi * (rng.random() < BACKWARDS)
        if rng.random() < ASTRAY:
            angle, x, y = rng.uniform((-np.pi, -FIELD, -FIELD), (np.pi, FIELD, FIELD))
        self.game.place(float(angle), float(x), float(y))
        self.game.t = ZOOMED_IN
        return self._hold(np.zeros(3), 1)

    def step(self, actions: Collection[str]) -> np.ndarray:
        """Hold the named actions for one frame and return it."""
        left, right, gas, brake = (share(actions, name) for name in ACTIONS)
        frame = self._hold(np.array([STEER * (right - left), GAS * gas, BRAKE * brake]), FRAME_SKIP)
        self.tally.update({"frames off the road": int(not self.on_road), "frames at rest": int(self.speed < 1)})
        return frame

    def close(self) -> None:
        """End the game."""
        self.game.close()

    @property
    def speed(self) -> float:
        """The car's speed, in the game's units per second."""
        return float(np.hypot(*self.game.car.hull.linearVelocity))

    @property
    def on_road(self) -> bool:
        """Whether any wheel is on the road."""
        return any(wheel.tiles for wheel in self.game.car.wheels)

    @property
    def road(self) -> np.ndarray:
        """The middle of the road [n, 2], in the game's units."""
        return np.array(self.game.track)[:, 2:]

    def _hold(self, action: np.ndarray, frames: int) -> np.ndarray:
        """Hold an action for some of the game's own frames; return the last."""
        for _ in range(frames):
            self.game.step(action)
        frame = self.game.draw()
        frame[SCORE] = 0
        car = self.game.car.hull
        x, y = map(float, car.position)
        self.state = {"x": x, "y": y, "angle": float(np.degrees(car.angle)) + 90, "speed": self.speed}  # the game counts it from the y axis
        return frame


def _open() -> Any:
    """Return the game, with `draw` in place of drawing in every step; it draws only what is in sight."""
    from Box2D import b2ChainShape  # type: ignore[import-untyped]
    from gymnasium.envs.box2d.car_dynamics import Car
    from gymnasium.envs.box2d.car_racing import CarRacing

    class Track(CarRacing):
        fence: Any = None

        def place(self, angle: float, x: float, y: float) -> None:
            """Put up the fence, and a new car within it."""
            assert self.car is not None
            self.car.destroy()
            self.car = Car(self.world, angle, x, y)
            corners = [(FIELD + 8, FIELD + 8), (-FIELD - 8, FIELD + 8), (-FIELD - 8, -FIELD - 8), (FIELD + 8, -FIELD - 8)]
            self.fence = self.world.CreateStaticBody(shapes=b2ChainShape(vertices_loop=corners))

        def _destroy(self) -> None:
            super()._destroy()
            if self.fence is not None:
                self.world.DestroyBody(self.fence)
                self.fence = None

        def draw(self) -> np.ndarray:
            assert self.car is not None
            self.here = tuple(self.car.hull.position)
            return super()._render("state_pixels")

        def _render(self, mode: str) -> None:
            return None

        def _draw_colored_polygon(self, surface: Any, poly: Any, *rest: Any, **options: Any) -> None:
            if options or max(abs(poly[0][0] - self.here[0]), abs(poly[0][1] - self.here[1])) < IN_SIGHT:  # the field itself has options
                super()._draw_colored_polygon(surface, poly, *rest, **options)

        def _create_image_array(self, screen: Any, size: Any) -> Any:
            return super()._create_image_array(screen, (ORIGIN.width, ORIGIN.height))

    return Track("state_pixels")


class Driver(Moody):
    """A noisy scripted player for `Racing`."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(ORIGIN.actions, rng, MOODS)
        self.hurry, self.pad = 1.0, False  # pad: it holds a stick and triggers, and not keys

    def begin(self) -> Collection[str]:
        """Return the actions to hold in the mood that begins."""
        rng = self.rng
        self.hurry, self.pad = float(rng.uniform(0.6, 1.5)), bool(rng.random() < 0.5)
        side = str(rng.choice(["steer_left", "steer_right"]))
        held = {"leave": {"gas", *([side] if rng.random() < 0.7 else [])}, "roam": {"gas"}, "brake": {"brake", *([side] if rng.random() < 0.3 else [])}}
        return self._pushed(dict.fromkeys(sorted(held.get(self.mood, ())), float(rng.uniform(0.2, 1.2))))

    def _pushed(self, wanted: dict[str, float]) -> Collection[str]:
        """Return actions that are held as far as is wanted, or by keys wholly."""
        pushed = {name: min(1.0, max(1, round(STEPS * far)) / STEPS) for name, far in wanted.items()}
        return pushed if self.pad else frozenset(pushed)

    def pursue(self, game: Racing) -> Collection[str]:
        """Steer to a point of the road ahead, the farther the faster, and keep the speed that the bend allows."""
        road, speed, car = game.road, game.speed, game.game.car.hull
        here, ahead = np.array(car.position), np.array([-np.sin(car.angle), np.cos(car.angle)])
        nearest = int(np.square(road - here).sum(1).argmin())
        way = 1 if (road[(nearest + 1) % len(road)] - road[nearest]) @ ahead >= 0 else -1
        reach = 4 + int(speed / 12)
        bend = bearing(ahead, road[(nearest + 2 * way * reach) % len(road)] - here)
        error = bearing(ahead, road[(nearest + way * reach) % len(road)] - here)
        wanted = self.hurry * (50 - 35 * min(1.0, abs(bend)))
        turn = error - 0.25 * car.angularVelocity  # a turn that is under way is not steered further
        spinning = abs(car.angularVelocity) > 2
        held: dict[str, float] = {}
        if abs(turn) > (0.02 if self.pad else 0.08) and self.rng.random() < 0.95:
            held["steer_left" if turn > 0 else "steer_right"] = 2.5 * abs(turn)
        if speed < wanted and not spinning and (abs(turn) < 0.4 or speed < 15):
            held["gas"] = (wanted - speed) / 15
        elif speed > wanted + 12 or (spinning and speed > 20):
            held["brake"] = (speed - wanted) / 30
        return self._pushed(held)


def bearing(ahead: np.ndarray, to: np.ndarray) -> float:
    """Return the angle in radians from one direction [2] to another, positive to the left."""
    return float(np.arctan2(ahead[0] * to[1] - ahead[1] * to[0], ahead @ to))


SOURCE = Source(ORIGIN, Racing, Driver, "Box2D")
