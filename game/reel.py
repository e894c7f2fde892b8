"""The pictures of a session: as recorded, as made again, or both side by side. Any frame at any time; frames are numbered from 1."""

import math
import sys
from collections import deque
from collections.abc import Iterator

import av
import numpy as np

from game.history import MAX_BYTES, History, Moment, weigh
from game.stage import World
from world_model.psnr import psnr_db
from world_model.session import Session, SessionError, Tick

KEPT_STATES = 64
LATEST_BYTES = 64 << 20
METER_PIXELS = 4
SAME_DB, STRANGE_DB = 40.0, 10.0  # where the divergence meter is empty and full; the video of a session lies at some 43 dB from its frames
GROUND, LIT = (12, 13, 16), (255, 188, 92)


class Film:
    """The recorded video of a session.

    Raises:
        SessionError: it cannot be read, or holds no frame.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        try:
            with session.open_video() as container:
                self._times = sorted(packet.pts for packet in container.demux(video=0) if packet.pts is not None)
            self._container = session.open_video()
        except (av.FFmpegError, OSError, IndexError) as error:
            raise SessionError(f"The video of {session.directory} cannot be read: {error}.") from error
        self._times = self._times[: len(session.ticks())]  # a killed process may leave a frame without its line
        if not self._times:
            raise SessionError(f"The video of {session.directory} holds no frame; --world or --verify make the frames again from the tape.")
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._number = 0  # of the frame that was decoded last

    def __len__(self) -> int:
        return len(self._times)

    def frame(self, number: int) -> np.ndarray:
        """Return frame `number`, uint8 [height, width, 3]; fast for the one after the last, else after a search from the keyframe before."""
        try:
            if number != self._number + 1 or number == 1:
                self._container.seek(self._times[number - 1], stream=self._container.streams.video[0])
                self._frames = self._container.decode(video=0)
            for frame in self._frames:
                if frame.pts is not None and frame.pts >= self._times[number - 1]:
                    self._number = number
                    return self._session.pixels(frame)
        except (av.FFmpegError, OSError) as error:
            raise SessionError(f"The video of {self._session.directory} cannot be read: {error}.") from error
        raise SessionError(f"The video of {self._session.directory} ends before frame {number}.")


class Rerun:
    """The frames of a session made again from its header and tape.

    To go back it keeps up to 64 states along the way, as many as fit into 256 MB but at least the first, and those after the last frames, up to 64 MB;
    it starts from the nearest.

    Args:
        world: where; the one that the session was recorded in, or another.
        session: its state is taken up in its own world; another world begins with the picture of that state.
        ticks: its tape; a rollback is as deep as the tape says, however fast this machine is.
        recorded_states: start from those that the session keeps, too, if this is its world: sooner there, but then not every frame is made again.

    Raises:
        ValueError: the session does not fit this world.
    """

    def __init__(self, world: World, session: Session, ticks: list[Tick], *, recorded_states: bool = False) -> None:
        self.world, self.number = world, 0
        self._ticks, self._deepest = ticks, world.card.max_rollback
        self._prompts = session.prompts()
        if not world.card.listens and self._prompts:
            raise SessionError(f"The world {world.card.name} obeys keys, but the session {session.directory} was played with words.")
        known = {action.name for action in world.card.actions}
        for name in sorted({name for tick in ticks for name in tick.actions} - known):
            raise SessionError(f"The world {world.card.name} has no action {name!r}, which the tape of {session.directory} uses.")
        seed, start, path = session.facts.seed, session.facts.start, session.state
        if path is None:
            self.stream = world.stream(seed=seed, start=start)
        elif world.sha256 == session.facts.world_sha256:
            self.stream = world.stream()
            self.stream.restore(self.stream.load(path))
        else:
            from world_model.state import load_screen

            self.stream = world.stream(seed=seed, start=load_screen(path))
        self.screen = self.stream.screen
        self._block: deque[np.ndarray] = deque()  # of the frames made by the last tick, those still to come
        first = self.stream.snapshot()
        kept = max(1, min(KEPT_STATES, MAX_BYTES // max(1, weigh(first, set(), set()))))
        self._spacing = max(1, math.ceil(len(ticks) / kept))
        self._kept = {0: first}
        self._latest = History(LATEST_BYTES)
        self._recorded = session.states_between() if recorded_states and world.sha256 == session.facts.world_sha256 else {}

    def __len__(self) -> int:
        return len(self._ticks)

    def advance(self) -> np.ndarray:
        """Make the next frame, uint8 [height, width, 3]."""
        if not self._block:
            tick = self._ticks[self.number]
            for prompt in self._prompts:
                if prompt.frame <= self.number:
                    self.stream.prompt = prompt.prompt
            frames = self.stream.tick(tick.actions, rollback=min(tick.rollback, self._deepest))
            self._block.extend(frames if frames.ndim == 4 else [frames])
        self.screen = self._block.popleft()
        self.number += 1
        if not self._block and not self.world.card.parts:
            state = self.stream.snapshot()
            if self.number >= max(self._kept) + self._spacing:
                self._kept[self.number] = state
            self._latest.add(Moment(self.screen[None], self.number, 0.0, state))
        return self.screen

    def approach(self, number: int) -> Iterator[int]:
        """Go to a frame, yielding every number on the way."""
        nearest = max(kept for kept in self._kept if kept <= number)
        state, latest = self._kept[nearest], self._latest.find(number)
        if latest and latest.number > nearest:
            nearest, state = latest.number, latest.saved
        recorded = max((frame for frame in self._recorded if frame <= number), default=0)
        here = self.number if self.number <= number else 0
        if recorded > max(nearest, here):
            try:
                nearest, state = recorded, self.stream.load(self._recorded[recorded])
            except ValueError:  # the tape leads there as well
                del self._recorded[recorded]
        if nearest > here or self.number > number:
            self.stream.restore(state)
            self._block.clear()
            self._latest.cut(nearest)
            screen = self.stream.screen
            self.screen, self.number = screen[-1] if screen.ndim == 4 else screen, nearest
        while self.number < number:
            self.advance()
            yield self.number

    def frame(self, number: int) -> np.ndarray:
        """Return frame `number`, uint8 [height, width, 3], with the stream standing right after it (or after its block)."""
        for _ in self.approach(number):
            pass
        return self.screen


class Reel:
    """What a replay shows: the recorded video, the frames made again, or the first on the left and the second on the right."""

    def __init__(self, film: Film | None, rerun: Rerun | None) -> None:
        self.film, self.rerun = film, rerun
        self.psnr_db: float | None = None  # of the last two frames side by side

    def __len__(self) -> int:
        return min(len(part) for part in (self.film, self.rerun) if part is not None)

    def frame(self, number: int) -> np.ndarray:
        """Return picture `number`, uint8 [height, width, 3]."""
        pictures = [part.frame(number) for part in (self.film, self.rerun) if part is not None]
        if len(pictures) == 1:
            return pictures[0]
        left, right = pictures
        if left.shape != right.shape:
            raise SessionError(f"Frames of {left.shape[1]} x {left.shape[0]} cannot be compared with frames of {right.shape[1]} x {right.shape[0]}.")
        self.psnr_db = psnr_db(left, right)
        return side_by_side(left, right, self.psnr_db)


def counted(total: int) -> Iterator[int]:
    """Count from 1 to a total; a terminal is told where."""
    watched = sys.stderr.isatty()
    for number in range(1, total + 1):
        if watched:
            print(f"\x1b[Kframe {number} of {total}", end="\r", file=sys.stderr, flush=True)
        yield number
    if watched:
        print("\x1b[K", end="", file=sys.stderr, flush=True)


def side_by_side(left: np.ndarray, right: np.ndarray, psnr_db: float) -> np.ndarray:
    """Return both frames, and below them a meter that fills as they diverge: empty from 40 dB on, full at 10 dB."""
    height, width, _ = left.shape
    whole = np.empty((height + METER_PIXELS, 2 * width + 2, 3), np.uint8)
    whole[...] = GROUND
    whole[:height, :width], whole[:height, -width:] = left, right
    share = min(1.0, max(0.0, (SAME_DB - psnr_db) / (SAME_DB - STRANGE_DB)))
    whole[height + 1 :, : round(share * whole.shape[1])] = LIT
    return whole
