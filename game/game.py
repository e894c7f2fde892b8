"""A world being played: wait, read the newest input, tick, show, record, and again.

This loop is the same with a window and without. With a window it runs in a thread beside the display; without, it is all
there is. The order within a round is what makes it obey: the wait comes first, and a key cuts it short, the input is read last,
and nothing stands between reading it and the tick. Commands (pause, step, restart, stop) may come from any thread at any time, even while the
world is still loading; a paused game sleeps until one of them comes. What a command changes in the stream or its recording is done
by the thread that plays, between two ticks; what takes long on the disk is done beside it.
"""

import enum
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from controls.keyboard import Player
from game.budget import RollbackBudget
from game.commands import COMMANDS, Command
from game.history import MAX_BYTES, History, Moment
from game.mailbox import Picture
from game.meters import Speedometer
from game.pacing import Clock, Pace
from game.recorder import Recorded
from game.recordings import Beginning, Recordings
from game.slots import Slots
from game.stage import Screen, Stream, World
from world_model.prompts import Prompt

CLIP_S = 30
NO_STATES = "In a published world a session begins at its start: restart while you record"
NO_SLOTS = "A published world is not rewound or kept in slots: its states take gigabytes"


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
    own_folder: Path = Path()  # for recordings without a folder of their own, and for save slots
    history_bytes: int = MAX_BYTES


@dataclass(frozen=True)
class Branch:
    """Where a game goes on that another session began: a state of its stream, and how to name that session."""

    saved: Any
    parent: Mapping[str, Any]


Order = Callable[[World, Recordings], None]


class _Next(enum.Enum):
    TICK = enum.auto()
    REWIND = enum.auto()
    ORDER = enum.auto()
    STOP = enum.auto()


class Game:
    """Play a world, and then whatever world the player goes over into, for one player on one screen.

    Args:
        open_world: loads the first world; called by `run`, so that a slow load happens in the thread that plays.
        player: asked for the actions of each tick.
        screen: shown every frame; called from the thread that plays.
        branch: where to begin, if not at a start of the world; the game is then recorded from its beginning.
    """

    commands: tuple[Command, ...] = COMMANDS
    timeline = None  # that of a replay

    def __init__(
        self,
        open_world: Callable[[], World],
        player: Player,
        screen: Screen,
        config: GameConfig = GameConfig(),
        clock: Clock | None = None,
        branch: Branch | None = None,
    ) -> None:
        self.world: World | None = None
        self.seed, self.start = config.seed, config.start
        self._open_world, self._player, self._screen, self._config, self._branch = open_world, player, screen, config, branch
        self._clock = clock or Clock()
        self._told = threading.Condition()
        self._paused = self._stopped = self._rewinding = self._hurried = False
        self._orders: deque[Order] = deque()
        self._steps = self._played = 0
        self._went_back = 0  # pictures shown since the rewind began
        self._pace: Pace | None = None  # None while time stands still: there is no deadline to keep then
        self._stream: Stream
        self._history = History(config.history_bytes)
        self._origin: Moment | None = None  # the moment at a start of the world, which needs no state to be found again
        self._recordings: Recordings | None = None  # once the world is loaded
        self.slots = Slots(config.own_folder / "slots", screen.tell)
        self.rollback = 0  # as wanted; the budget may choose less
        self.prompt = ""  # what a text world is told from the next tick on
        self._to_say: list[Prompt] = []

    @property
    def card(self) -> Any:
        """The card of the world, once it is loaded."""
        return self.world and self.world.card

    @property
    def paused(self) -> bool:
        """Whether time stands still."""
        return self._paused

    @property
    def sign(self) -> str:
        """What the player must know about time."""
        return "Rewinding" if self._rewinding else "Paused" if self._paused else ""

    @property
    def recording(self) -> Recorded | None:
        """What has been written of the session that is being recorded; None if there is none."""
        return self._recordings.recorded if self._recordings else None

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
        self._order(self._begin_next if next_seed else self._begin_again)

    def rewind(self, on: bool) -> None:
        """Go back in time until told otherwise; then play on from there."""
        with self._told:
            if on and not self._rewinding:
                self._went_back = 0
                self._rewinding = self.world is not None and not self.world.card.parts
                if self.world and not self._rewinding:
                    self._screen.tell(NO_SLOTS)
            elif not on and self._rewinding:
                self._rewinding = False
                self._orders.append(self._land)
            self._told.notify_all()

    def record(self) -> None:
        """Begin to record a session, or finish the one that is being recorded."""
        self._order(self._record)

    def clip(self) -> None:
        """Save the last 30 seconds as a session."""
        self._order(self._clip)

    def save(self) -> None:
        """Keep this moment in the chosen slot."""
        self._order(self._save)

    def load(self) -> None:
        """Go on from the moment in the chosen slot."""
        self._order(self._load)

    def swap(self, world: World, *, keep_screen: bool) -> None:
        """Go over into another world between two ticks: to a start of it, or from the frame on the screen; if that cannot be, tell why and play on."""
        with self._told:
            self._orders.append(lambda _, recordings: self._go_over(world, keep_screen, recordings))
            self._told.notify_all()

    def hurry(self) -> None:
        """Have the next tick not wait for its deadline if it can help: the player has changed his mind."""
        with self._told:
            self._hurried = True
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
            self._recordings = Recordings(self._folder(world), self._screen.tell)
            self._begin(world, self._branch.saved if self._branch else None)
            if not world.card.parts:  # of the file as it is now, not when a session or a slot first asks; gigabytes would hold up the first tick
                _ = world.sha256
            if self._branch:
                self._recordings.begin(self._beginning(), self._branch.parent)
            elif self._config.record:
                self._recordings.begin_at_once(self._beginning())
            while self._play(self.world, self._recordings):
                pass
        finally:
            if self._recordings:
                self._recordings.close()
            self.slots.wait()

    def _choose_rollback(self, world: World) -> int:
        asked, most = self._config.rollback, world.card.max_rollback
        if asked is not None and not 0 <= asked <= most:
            raise ValueError(f"--rollback is {asked}, but this world can be rolled back by 0 to {most} levels.")
        return world.card.rollback if asked is None else asked

    def _folder(self, world: World) -> Path:
        return self._config.record or self._config.own_folder / "recordings" / world.card.name

    def _play(self, world: World, recordings: Recordings) -> bool:
        """Play until the end, or until the player has gone over into another world; return whether he has."""
        clock, speedometer = self._clock, Speedometer(world.card.fps)
        period_s = 1 / world.card.fps if self._config.paced else 0.0
        budget = RollbackBudget(world.card.max_rollback + 1, period_s * len(self._history.newest.block))
        while self._config.frames is None or self._played < self._config.frames:
            what = self._wait()
            if what is _Next.STOP:
                break
            if what is _Next.ORDER:
                self._orders.popleft()(world, recordings)
                if self.world is not world:
                    return True
                continue
            held = None if what is _Next.REWIND else self._player.take()
            if held is None and what is _Next.TICK:
                break
            started_s = clock.now_s()
            first, pace = self._pace is None, self._pace or Pace(period_s, started_s)
            if held is None:
                self._pace = replace(pace, period_s=period_s).started(started_s)
                self._go_back()
                continue
            if first:
                speedometer.reset()
            wanted, stream, number = self.rollback, self._stream, self._history.newest.number
            allowed = wanted if self._tell(world, stream, number) else budget.choose(wanted)
            block = _block(stream.tick(held.actions, rollback=allowed))
            self._pace = replace(pace, period_s=len(block) * period_s).started(started_s)  # a block is shown in the world's own time
            done_s = clock.now_s()
            if number:  # the first tick fills the window
                budget.learn(stream.rolled_back, done_s - started_s)
            speed = speedometer.tick(started_s, done_s, self._pace.late, len(block))
            self._played += len(block)
            prompt = stream.prompt if world.card.parts else ""
            moment = Moment(block, number + len(block), done_s, None, held.actions, stream.rolled_back, prompt, held.input_s)
            # A key pressed while time stood still waited for the player, not for the engine.
            input_s, reel = None if first else held.input_s, block if len(block) > 1 else None
            self._screen.show(Picture(block[-1], moment.number, held.actions, input_s, speed, wanted, allowed, reel, moment))
            moment.saved = self._snapshot(world)
            self._history.add(moment)
            recordings.append(moment)
            stream.prepare()
        return False

    def _tell(self, world: World, stream: Stream, number: int) -> bool:
        """Tell a text world the prompt that counts after `number` frames; return whether it is another one. Its window obeys at once, late or not."""
        while self._to_say and self._to_say[0].frame <= number:
            self.prompt = self._to_say.pop(0).prompt
        if not world.card.parts or stream.prompt == self.prompt:
            return False
        stream.prompt = self.prompt
        return True

    def _snapshot(self, world: World) -> dict[str, Any] | None:
        """Return the state of the stream; None in a text world, where it takes gigabytes."""
        return None if world.card.parts else self._stream.snapshot()

    def _wait(self) -> _Next:
        """Wait until the next tick is due or something else is to be done."""
        with self._told:
            while True:
                if self._stopped:
                    return _Next.STOP
                if self._orders:
                    return _Next.ORDER
                wait_s: float | None = None
                if self._paused and not self._rewinding:
                    self._pace = None
                    if self._steps:
                        self._steps -= 1
                        return _Next.TICK
                elif self._pace is None or (wait_s := self._pace.wait_s(self._clock.now_s(), hurried=self._hurried and not self._rewinding)) <= 0:
                    self._hurried = False
                    return _Next.REWIND if self._rewinding else _Next.TICK
                self._clock.wait(self._told, wait_s)

    # Orders: done by the thread that plays, between two ticks.

    def _order(self, order: Order) -> None:
        with self._told:
            if self.world:
                self._orders.append(order)
                self._told.notify_all()

    def _begin(self, world: World, saved: Mapping[str, Any] | None = None, picture: np.ndarray | None = None) -> None:
        """Start a stream, at a start of the world, from a state or from a picture, and show what it starts from."""
        with self._told:
            self.start %= max(1, world.card.num_starts)
            seed, start = self.seed, self.start
        self._stream = stream = world.stream(seed=seed, start=start if picture is None else picture)
        if saved:
            stream.restore(saved)
            self.seed = stream.seed
        block = _block(stream.screen)
        number = stream.frame * len(block)
        self._history.clear()
        self._history.add(Moment(block, number, self._clock.now_s(), self._snapshot(world)))
        self._origin = self._history.newest if saved is None and picture is None else None
        self._pace, self._to_say = None, list(self._config.prompts)
        self._screen.show(Picture(block[-1], number))

    def _begin_next(self, world: World, recordings: Recordings) -> None:
        with self._told:
            self.seed, self.start = self.seed + 1, self.start + 1
        self._begin_again(world, recordings)

    def _begin_again(self, world: World, recordings: Recordings) -> None:
        self._begin(world)
        recordings.go_on(self._beginning(), branched=False)

    def _go_over(self, world: World, keep_screen: bool, recordings: Recordings) -> None:
        """Leave everything of the world played so far but the player, and the keys he holds; afresh begins with the first start, that the gate has tried."""
        left, start = self.world, self.start
        if not keep_screen:
            with self._told:
                self.start = 0
        try:
            self._player.bind(world.card.actions)
            self._begin(world, picture=self._history.newest.fitted(world.card.width, world.card.height) if keep_screen else None)
        except Exception as error:  # whatever it is, the game goes on where it was
            assert left, "a world is being played"
            self._player.bind(left.card.actions)
            with self._told:
                self.start = start
            self._screen.tell(str(error).splitlines()[0] if str(error) else type(error).__name__)
            return
        try:
            self.rollback = self._choose_rollback(world)
        except ValueError as error:  # what was asked for was meant for another world
            self._screen.tell(str(error))
            self.rollback = world.card.rollback
        with self._told:
            self.world, self._rewinding = world, False
        recordings.folder = self._folder(world)
        recordings.go_on(self._beginning(), branched=False)

    def _go_back(self) -> None:
        """Show an earlier moment; the longer this lasts, the larger are the steps."""
        for _ in range(1 + int(self._went_back / self.card.fps)):
            moment = self._history.back()
        self._went_back += 1
        self._screen.show(Picture(moment.frame, moment.number, moment.actions))

    def _land(self, world: World, recordings: Recordings) -> None:
        """Play on from the moment that the rewind has come to."""
        if not self._history.newest.saved:  # in a world of words, that was entered while the key was down
            return
        if not self._went_back:  # a tap shorter than a frame
            self._go_back()
        self._stream.restore(self._history.newest.saved)
        self._pace = None
        recordings.go_on(self._beginning(), branched=True)

    def _beginning(self, moment: Moment | None = None) -> Beginning:
        """Return what a session begins with that begins at a moment, by default the newest."""
        moment = moment or self._history.newest
        return Beginning(moment, (self.world, self.seed, self.start, self.rollback, self._player.keys), self._stream.save, moment is self._origin)

    def _record(self, world: World, recordings: Recordings) -> None:
        if recordings.recorded:
            recordings.finish(world.card.fps)
        elif self._history.newest.saved or self._history.newest is self._origin:
            recordings.begin(self._beginning())
        else:
            self._screen.tell(NO_STATES)

    def _clip(self, world: World, recordings: Recordings) -> None:
        first, *moments = self._history.last(round(CLIP_S * world.card.fps / len(self._history.newest.block)) + 1)
        if not moments:
            self._screen.tell("Nothing has been played yet that a clip could hold")
        elif first.saved or first is self._origin:
            recordings.clip(self._beginning(first), moments, world.card.fps)
        else:
            self._screen.tell(NO_STATES)

    def _save(self, world: World, recordings: Recordings) -> None:
        if saved := self._history.newest.saved:
            self.slots.save(world, self._stream, saved)
        else:
            self._screen.tell(NO_SLOTS)

    def _load(self, world: World, recordings: Recordings) -> None:
        if world.card.parts:
            self._screen.tell(NO_SLOTS)
        elif saved := self.slots.load(world, self._stream):
            self._begin(world, saved)
            recordings.go_on(self._beginning(), branched=False)


def _block(frames: np.ndarray) -> np.ndarray:
    """Return what a tick made as uint8 [frames, height, width, 3]."""
    return frames if frames.ndim == 4 else frames[None]
