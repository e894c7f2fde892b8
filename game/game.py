"""One world being played: wait, read the newest input, tick, show, record, and again.

This loop is the same with a window and without. With a window it runs in a thread beside the display; without, it is all
there is. The order within a round is what makes it obey: the wait comes first, the input is read last, and nothing stands
between reading it and the tick. Commands (pause, step, restart, stop) may come from any thread at any time, even while the
world is still loading; a paused game sleeps until one of them comes.
"""

import enum
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from controls.keyboard import Player
from game.budget import RollbackBudget
from game.mailbox import Picture
from game.meters import Speedometer
from game.pacing import Clock, Pace
from game.recorder import Recorder, next_folder, session_header
from world_model.prompts import Prompt
from world_model.session import SessionError


class Stream(Protocol):
    """A running world, as `World.stream` returns it."""

    prompt: str  # of a text world

    @property
    def screen(self) -> np.ndarray: ...
    @property
    def rolled_back(self) -> int: ...
    def tick(self, action: Iterable[str], *, rollback: int) -> np.ndarray: ...


class World(Protocol):
    """A loaded world, as `World.load` returns it."""

    @property
    def card(self) -> Any: ...
    @property
    def sha256(self) -> str: ...
    def stream(self, seed: int = 0, start: int = 0) -> Stream: ...


class Screen(Protocol):
    """Where pictures and sentences for the player go."""

    def show(self, picture: Picture) -> None: ...
    def tell(self, sentence: str) -> None: ...


@dataclass(frozen=True)
class GameConfig:
    """How a world is played."""

    seed: int = 0
    start: int = 0
    frames: int | None = None  # end after so many frames
    paced: bool = True  # at the world's own fps; otherwise as fast as it can
    record: Path | None = None  # write a session into this folder
    rollback: int | None = None  # by how many levels when the actions change; None: as the card says
    prompts: tuple[Prompt, ...] = ()  # what a text world is told, and when


class _Next(enum.Enum):
    TICK = enum.auto()
    RESTART = enum.auto()
    STOP = enum.auto()


class Game:
    """Play one world for one player on one screen.

    Args:
        open_world: loads the world; called by `run`, so that a slow load happens in the thread that plays.
        player: asked for the actions of each tick.
        screen: shown every frame; called from the thread that plays.
    """

    def __init__(
        self,
        open_world: Callable[[], World],
        player: Player,
        screen: Screen,
        config: GameConfig = GameConfig(),
        clock: Clock | None = None,
    ) -> None:
        self.world: World | None = None
        self.seed, self.start = config.seed, config.start
        self._open_world, self._player, self._screen, self._config = open_world, player, screen, config
        self._clock = clock or Clock()
        self._told = threading.Condition()
        self._paused = self._stopped = False
        self._restarted = False
        self._steps = 0
        self._pace: Pace | None = None  # None while time stands still: there is no deadline to keep then
        self._recorder: Recorder | None = None
        self.rollback = 0  # as wanted; the budget may choose less
        self.prompt = ""  # what a text world is told from the next tick on
        self._to_say: list[Prompt] = []

    @property
    def paused(self) -> bool:
        """Whether time stands still."""
        return self._paused

    @property
    def recording(self) -> bool:
        """Whether a session is being written."""
        return self._recorder is not None and self._recorder.writing

    def pause(self, paused: bool) -> None:
        """Hold time, or let it go on."""
        with self._told:
            self._paused, self._steps = paused, 0
            self._told.notify_all()

    def step(self) -> None:
        """Play one tick of a paused game; a running one is paused."""
        with self._told:
            self._steps += self._paused
            self._paused = True
            self._told.notify_all()

    def restart(self, *, next_seed: bool = False) -> None:
        """Begin again: with the same noise from the same place, or with the next seed from the next start."""
        with self._told:
            if self.world is None:
                return
            if next_seed:
                self.seed, self.start = self.seed + 1, (self.start + 1) % max(1, self.world.card.num_starts)
            self._restarted = True
            self._told.notify_all()

    def cycle_rollback(self) -> None:
        """Roll back one level deeper from now on, and after the deepest not at all."""
        if self.world:
            self.rollback = (self.rollback + 1) % (self.world.card.max_rollback + 1)

    def say(self, prompt: str) -> None:
        """Tell a text world something else from the next tick on."""
        self.prompt = prompt

    def stop(self) -> None:
        """End `run` after the tick that is being made."""
        with self._told:
            self._stopped = True
            self._told.notify_all()

    def run(self) -> None:
        """Load the world and play until the player, the configuration or `stop` ends it.

        Raises:
            ValueError: the world, its tape or the folder to record into is not right; the message is for the user.
        """
        try:
            world = self._open_world()
            self._player.bind(world.card.actions)
            self.rollback = self._choose_rollback(world)
            self.world = world
            self._play(world, self._begin(world, self._config.record))
        finally:
            if self._recorder:
                self._recorder.close()

    def _choose_rollback(self, world: World) -> int:
        asked, most = self._config.rollback, world.card.max_rollback
        if asked is not None and not 0 <= asked <= most:
            raise ValueError(f"--rollback is {asked}, but this world can be rolled back by 0 to {most} levels.")
        return world.card.rollback if asked is None else asked

    def _begin(self, world: World, record: Path | None) -> Stream:
        """Start a stream and its recording, and show the picture it starts from."""
        with self._told:
            seed, start = self.seed, self.start
        stream = world.stream(seed=seed, start=start)
        if record:
            self._recorder = Recorder(record, session_header(world, seed, start), self._screen.tell)
        self._pace, self._to_say = None, list(self._config.prompts)
        self._screen.show(Picture(stream.screen))
        return stream

    def _begin_again(self, world: World) -> Stream:
        """Start over. A session holds one stream, so the recording goes on in a folder beside the first."""
        if self._recorder:
            self._recorder.close()
            self._recorder = None
        try:
            return self._begin(world, next_folder(self._config.record) if self._config.record else None)
        except SessionError as error:
            self._screen.tell(str(error))
            return self._begin(world, None)

    def _play(self, world: World, stream: Stream) -> None:
        clock, speedometer = self._clock, Speedometer(world.card.fps)
        period_s = 1 / world.card.fps if self._config.paced else 0.0
        budget = RollbackBudget(world.card.max_rollback + 1, period_s)
        number = played = 0
        while self._config.frames is None or played < self._config.frames:
            what = self._wait()
            if what is _Next.STOP:
                break
            if what is _Next.RESTART:
                stream, number = self._begin_again(world), 0
                continue
            held = self._player.take()
            if held is None:
                break
            started_s = clock.now_s()
            first, pace = self._pace is None, self._pace or Pace(period_s, started_s)
            if first:
                speedometer.reset()
            wanted = self.rollback
            allowed = wanted if self._tell(world, stream, number) else budget.choose(wanted)
            frame = stream.tick(held.actions, rollback=allowed)
            block = frame if frame.ndim == 4 else frame[None]
            self._pace = replace(pace, period_s=len(block) * period_s).started(started_s)  # a block is shown in the world's own time
            done_s, rolled_back = clock.now_s(), stream.rolled_back
            if number:  # the first tick fills the window
                budget.learn(rolled_back, done_s - started_s)
            speed = speedometer.tick(started_s, done_s, self._pace.late, len(block))
            number, played = number + len(block), played + len(block)
            # A key pressed while time stood still waited for the player, not for the engine.
            reel = block if len(block) > 1 else None
            self._screen.show(Picture(block[-1], number, held.actions, None if first else held.input_s, speed, wanted, allowed, reel))
            if self._recorder:
                for place, frame in enumerate(block):
                    self._recorder.append(frame, held.actions, 0 if place else rolled_back, stream.prompt if world.card.parts else "")

    def _tell(self, world: World, stream: Stream, number: int) -> bool:
        """Tell a text world the prompt that counts after `number` frames; return whether it is another one. Its window obeys at once, late or not."""
        while self._to_say and self._to_say[0].frame <= number:
            self.prompt = self._to_say.pop(0).prompt
        if not world.card.parts or stream.prompt == self.prompt:
            return False
        stream.prompt = self.prompt
        return True

    def _wait(self) -> _Next:
        """Wait until the next tick is due or something else is to be done."""
        with self._told:
            while True:
                if self._stopped:
                    return _Next.STOP
                if self._restarted:
                    self._restarted = False
                    return _Next.RESTART
                wait_s: float | None = None
                if self._paused:
                    self._pace = None
                    if self._steps:
                        self._steps -= 1
                        return _Next.TICK
                elif self._pace is None or (wait_s := self._pace.wait_s(self._clock.now_s())) <= 0:
                    return _Next.TICK
                self._clock.wait(self._told, wait_s)
