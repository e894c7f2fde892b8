"""A session shown in the window: pause, step, seek, speed, and play on from any frame.

The recorded video can be shown at any speed at once. To play on from one of its frames the state of the stream at that frame is needed, so a thread
makes the frames again beside the show and stays just ahead of it; from where the viewer has gone it begins at the nearest of the states that were recorded
every twenty seconds. Frames that are made again in another world, or beside the video, cannot be faster than this machine makes them.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from game.commands import REPLAY_COMMANDS, Command
from game.game import Branch, Game
from game.mailbox import Picture
from game.pacing import Clock, Pace
from game.reel import Reel, Rerun
from game.stage import Screen
from world_model.session import Session, Tick, frame_digest

SPEEDS = (0.25, 0.5, 1, 2, 4, 8)
SEEK_S = 2
LEAD_S = 2
POLL_S = 0.2


@dataclass(frozen=True)
class Timeline:
    """Where the show is: frames so far and in all, times the world's own speed, and how close two pictures side by side are."""

    number: int
    total: int
    speed: float
    psnr_db: float | None


class Projector:
    """Show a session on a screen.

    Args:
        session, ticks: what is shown, and its tape.
        open_reel: opens the pictures; called by `run`.
        open_rerun: makes the frames again, for a reel without that; called in a thread of its own, for it loads the world.
        play_on: makes the game that goes on from a branch.
    """

    commands = REPLAY_COMMANDS
    recording = None

    def __init__(
        self,
        session: Session,
        ticks: list[Tick],
        open_reel: Callable[[], Reel],
        open_rerun: Callable[[], Rerun],
        play_on: Callable[[Rerun, Branch], Game],
        screen: Screen,
        clock: Clock | None = None,
    ) -> None:
        self._session, self._ticks, self._screen, self._clock = session, ticks, screen, clock or Clock()
        self._open_reel, self._open_rerun, self._play_on = open_reel, open_rerun, play_on
        self._told = threading.Condition()
        self._paused = self._stopped = self._taken = False
        self._number, self._asked = 0, 1  # the frame on the screen, and the one that shall be
        self._picture: Picture | None = None
        self._speed = SPEEDS.index(1)
        self._pace: Pace | None = None
        self._reel: Reel | None = None
        self._rerun: Rerun | None = None
        self._rerunning = threading.Lock()
        self._refused = ""  # why nobody can play on
        self._progress = ""
        facts = session.facts
        actions = tuple(Command(name, facts.keys.get(name, ()), name.replace("_", " ").capitalize()) for name in facts.actions)
        name, title = facts.world or "session", session.directory.name
        self.card: Any = SimpleNamespace(name=name, title=title, description="", actions=actions, fps=facts.fps, parts=None, listens=False)

    @property
    def paused(self) -> bool:
        """Whether time stands still."""
        return self._paused

    @property
    def sign(self) -> str:
        """What the viewer must know about time."""
        return self._progress or ("Paused" if self._paused else "The end" if self._reel and self._number == len(self._reel) else "")

    @property
    def timeline(self) -> Timeline:
        """Where the show is."""
        reel = self._reel
        return Timeline(self._number, len(reel) if reel else 0, SPEEDS[self._speed], reel.psnr_db if reel else None)

    def pause(self, paused: bool) -> None:
        """Hold time, or let it go on."""
        with self._told:
            self._paused = paused
            self._told.notify_all()

    def seek(self, frames: int) -> None:
        """Go on from a frame so many before or after this one."""
        with self._told:
            self._asked = min(max(1, self._asked + frames), len(self._reel) if self._reel else 1)
            self._told.notify_all()

    def step(self) -> None:
        """Pause, and show the next frame."""
        self.pause(True)
        self.seek(1)

    def step_back(self) -> None:
        """Pause, and show the frame before."""
        self.pause(True)
        self.seek(-1)

    def earlier(self) -> None:
        """Go back two seconds."""
        self.seek(-round(SEEK_S * self._session.facts.fps))

    def later(self) -> None:
        """Go on two seconds."""
        self.seek(round(SEEK_S * self._session.facts.fps))

    def first(self) -> None:
        """Go to the beginning."""
        self.seek(-len(self._ticks))

    def last(self) -> None:
        """Go to the end."""
        self.seek(len(self._ticks))

    def faster(self, by: int = 1) -> None:
        """Take the next higher speed."""
        with self._told:
            self._speed = min(max(0, self._speed + by), len(SPEEDS) - 1)
            self._pace = None
            self._told.notify_all()

    def slower(self) -> None:
        """Take the next lower speed."""
        self.faster(-1)

    def take_over(self) -> None:
        """Play on from the frame on the screen."""
        with self._told:
            self._taken = True
            self._told.notify_all()

    def rewind(self, on: bool) -> None:
        """Nothing is rewound here: seeking does that."""

    def hurry(self) -> None:
        """What was recorded listens to no key."""

    def stop(self) -> None:
        """End `run`."""
        with self._told:
            self._stopped = True
            self._told.notify_all()

    def run(self) -> Game | None:
        """Show the session until it is left; return the game that goes on from it, if the player takes over.

        Raises:
            ValueError: it cannot be shown; the message is for the user.
        """
        self._reel = self._open_reel()
        if self._reel.rerun:
            self._rerun = self._reel.rerun
        ahead = threading.Thread(target=self._stay_ahead, name="rerun", daemon=True)
        try:
            if not self._rerun:
                ahead.start()
            while self._wait():
                if self._asked != self._number:
                    self._show(self._asked)
                if self._taken:
                    self._taken = False
                    if game := self._branch():
                        return game
            return None
        finally:
            self.stop()
            if ahead.is_alive():
                ahead.join()

    def _wait(self) -> bool:
        """Wait until there is something to do, time going on included; return whether the show goes on."""
        assert self._reel, "the reel is open"
        with self._told:
            while not self._stopped:
                if self._taken or self._asked != self._number:
                    return True
                wait_s: float | None = None
                if self._paused or self._number == len(self._reel):
                    self._pace = None
                else:
                    speed, now_s = SPEEDS[self._speed], self._clock.now_s()
                    pace = self._pace or Pace(1 / (self._session.facts.fps * min(1, speed)), now_s).started(now_s)
                    wait_s = pace.wait_s(now_s)
                    if wait_s <= 0:
                        pace = pace.started(now_s)
                        self._asked = min(self._number + max(1, round(speed)), len(self._reel))
                    self._pace = pace
                    if wait_s <= 0:
                        return True
                self._clock.wait(self._told, wait_s)
        return False

    def _show(self, number: int) -> None:
        assert self._reel, "the reel is open"
        if self._reel.rerun and not self._travel(self._reel.rerun, number, lambda: self._stopped or self._asked != number):
            return
        picture = Picture(self._reel.frame(number), number, self._ticks[number - 1].actions)
        self._number, self._picture = number, picture
        self._screen.show(picture)

    # Playing on.

    def _stay_ahead(self) -> None:
        try:
            self._rerun = rerun = self._open_rerun()
            while not self._stopped:
                with self._rerunning:
                    behind = rerun.number < min(len(rerun), self._number + LEAD_S * self._session.facts.fps)
                    if behind:
                        next(rerun.approach(max(self._number, rerun.number + 1)))
                if not behind:
                    with self._told:
                        self._told.wait(POLL_S)
        except Exception as error:  # whatever it was, the viewer who wants to play on must hear it
            self._refused = str(error)

    def _branch(self) -> Game | None:
        """Return the game that goes on from the frame on the screen, or tell why there is none."""
        number = self._number
        while not self._rerun and not self._refused and not self._stopped:
            self._wait_for("The world is loading")
            with self._told:
                self._told.wait(POLL_S)
        self._wait_for("")
        if not self._rerun:
            self._screen.tell(self._refused)
            return None
        if self._rerun.world.card.parts:
            self._screen.tell("A published world is played on from its start only")
            return None
        with self._rerunning:
            if not self._travel(self._rerun, number, lambda: self._stopped):
                return None
            saved, digest = self._rerun.stream.snapshot(), frame_digest(self._rerun.screen)
        recorded = self._recorded_digest(number) or digest
        if recorded != digest:
            self._screen.tell("This is not the recorded frame: the world or the machine is another")
        return self._play_on(self._rerun, Branch(saved, {"session": self._session.directory.name, "frame": number, "digest": recorded}))

    def _recorded_digest(self, number: int) -> str | None:
        try:
            return self._session.digests()[number - 1]
        except (ValueError, IndexError):  # it can be played on from all the same
            return None

    def _travel(self, rerun: Rerun, number: int, given_up: Callable[[], bool]) -> bool:
        """Make frames again up to a number, and say how far that is; return whether it was reached."""
        for reached in rerun.approach(number):
            if number - reached > self._session.facts.fps:
                self._wait_for(f"Getting there, frame {reached} of {number}")
            if given_up():
                break
        self._progress = ""
        return rerun.number == number

    def _wait_for(self, progress: str) -> None:
        self._progress = progress
        if self._picture:
            self._screen.show(self._picture)
