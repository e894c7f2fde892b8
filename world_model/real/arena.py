"""The real arena and its scripted player: ViZDoom's *Defend the Center*.

The player stands in the middle of a round hall, with 26 shots, and monsters come from all sides. ViZDoom's episode ends in the moment of death; what a
person sees of it here is that the picture sinks into red, and then the next life begins.

The scripted player hunts: it turns to a monster, nearer by taps, and shoots. It also does what other people do: shoots at nothing, turns on and on, stands
and waits, presses everything at once.
"""

from collections.abc import Collection

import numpy as np

from world_model.card import ActionSpec
from world_model.real.doom import FPS, HEIGHT, LICENCE, WIDTH, Doom
from world_model.real.game import Source
from world_model.real.origin import Origin
from world_model.real.restless import Moody

ORIGIN = Origin(
    name="arena",
    title="Doom arena",
    description="Turn and shoot: monsters come at you from all sides of ViZDoom's Defend the Center. There is no game code behind the picture.",
    data_source="ViZDoom Defend the Center, rendered with the Freedoom resource files",
    licence=LICENCE,
    width=WIDTH,
    height=HEIGHT,
    fps=FPS,
    actions=(
        ActionSpec("turn_left", ("left", "a"), "Turn left"),
        ActionSpec("turn_right", ("right", "d"), "Turn right"),
        ActionSpec("shoot", ("space", "up", "w"), "Shoot"),
    ),
)
ACTIONS = ORIGIN.action_names
MOODS = {"hunt": (0.46, 30, 120), "rest": (0.1, 4, 160), "sweep": (0.17, 4, 40), "waste": (0.09, 2, 10), "any": (0.18, 10, 50)}
DEATH_FRAMES, DEATH = 8, np.array([96, 0, 0], np.float32)
KINDS = "Demon", "MarineChainsawVzd"  # of monsters


class Arena(Doom):
    """ViZDoom's Defend the Center with this world's three actions, life after life."""

    def __init__(self) -> None:
        buttons = dict(zip(ACTIONS, ("TURN_LEFT", "TURN_RIGHT", "ATTACK"), strict=True))
        variables = {"health": "HEALTH", "shots": "AMMO2", "hits": "HITCOUNT", "kills": "KILLCOUNT"}
        settings = {"render_screen_flashes": True, "labels_buffer_enabled": True, "objects_info_enabled": True, "episode_timeout": 0}
        super().__init__("defend_the_center", buttons, variables, **settings)
        self.dying = 0  # frames since death

    def reset(self, seed: int) -> np.ndarray:
        self.dying = 0
        self.last = super().reset(seed)
        return self.last

    def step(self, actions: Collection[str]) -> np.ndarray:
        """Hold the named actions for one frame and return it; the dead wait for their next life."""
        before, frame = self.state, None
        if self.dying == DEATH_FRAMES:
            self.dying = 0
            self.game.new_episode()
            self.last = self.observe()
            return self.last
        if self.dying == 0:
            frame = super().step(actions)
        if frame is None:
            self.tally["deaths"] += self.dying == 0
            self.dying += 1
            self.state = {**(before or {}), "health": 0.0}
            share = self.dying / DEATH_FRAMES
            return ((1 - share) * self.last + share * DEATH).astype(np.uint8)
        assert before is not None and self.state is not None
        changes = {name: self.state[name] - before[name] for name in ("shots", "hits", "kills", "health")}
        self.tally.update(shots=-int(changes["shots"]), hits=int(changes["hits"]), kills=int(changes["kills"]), wounds=int(changes["health"] < 0))
        self.last = frame
        return frame

    def observe(self) -> np.ndarray:
        """As `Doom.observe`; of every monster its number, its kind, x, y and where it looks, in degrees, are noted, in view or not."""
        frame = super().observe()
        assert self.state is not None
        monsters = [(o.id, KINDS.index(o.name), o.position_x, o.position_y, o.angle) for o in self.seen.objects if o.name in KINDS]
        self.state["bodies"] = [[round(float(number), 2) for number in monster] for monster in monsters]
        return frame

    def monsters(self) -> list[tuple[float, float]]:
        """Return of every monster in view how far right of the middle it stands, from -1 to 1, and how wide it is, on the same scale; the nearest first."""
        if self.dying:
            return []
        seen = sorted((label for label in self.seen.labels if label.object_category == "Monster"), key=lambda label: -label.height)
        return [((label.x + label.width / 2) / WIDTH - 1, label.width / WIDTH) for label in seen]


class Marksman(Moody):
    """A noisy scripted player for `Arena`."""

    NEAR = 0.25  # of half the picture: from here on it turns by taps, which turn less far

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(ORIGIN.actions, rng, MOODS)
        self.side = "turn_left"

    def begin(self) -> frozenset[str]:
        """Return the actions to hold in the mood that begins."""
        self.side = str(self.rng.choice(["turn_left", "turn_right"]))
        return frozenset({"rest": (), "sweep": (self.side,), "waste": ("shoot",)}.get(self.mood, ()))

    def pursue(self, game: Arena) -> frozenset[str]:
        """Turn to the nearest monster in view and shoot when it is in the middle; look around while there is none."""
        monsters = game.monsters()
        if not monsters:
            return frozenset({self.side})
        offset, width = monsters[0]
        if abs(offset) < max(0.03, width / 2) and self.rng.random() < 0.9:
            return frozenset({"shoot"} if "shoot" not in self.held or self.rng.random() < 0.7 else ())
        self.side = "turn_left" if offset < 0 else "turn_right"
        turned_before = any(name.startswith("turn") for name in self.held)
        return frozenset() if abs(offset) < self.NEAR and turned_before else frozenset({self.side})


SOURCE = Source(ORIGIN, Arena, Marksman, "vizdoom")
