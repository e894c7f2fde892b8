"""The sessions that come out of one game: the one being recorded, those being finished, and clips of what has been.

A session holds one unbroken stream. So when the player restarts, rewinds, loads a slot or goes over into another world while recording, one session ends and
the next one begins, in a folder of its own; after a rewind it names the one before as its parent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from game.beside import Beside
from game.history import Moment
from game.recorder import Part, Recorded, Recorder, SaveState, new_folder, session_header, write
from world_model.session import SessionWriter


@dataclass(frozen=True)
class Beginning:
    """What a session begins with.

    Attributes:
        moment: the first frame of the session is the one after.
        facts: the arguments of `session_header`, without a parent.
        save_state: writes what a moment has saved to a path.
        at_start: whether the moment is a start of the world, which is found again without its state.
    """

    moment: Moment
    facts: tuple[Any, int, int, int, Mapping[str, Sequence[str]]]
    save_state: SaveState
    at_start: bool

    def open(self, directory: Path, parent: Mapping[str, Any] | None = None) -> SessionWriter:
        """Begin to write the session into a new folder; raise `SessionError` or `StateError` if that cannot be."""
        save = None if self.at_start else lambda path: self.save_state(path, self.moment.saved)
        return SessionWriter(directory, session_header(*self.facts, parent), save_state=save)


class Recordings:
    """Record what is played, when it is asked for.

    Args:
        folder: of the next session; if it is taken, the session lies beside it, with a number after the name.
        tell: called with sentences for the player.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder, self._tell = folder, tell
        self._beside = Beside(tell)
        self._current: Recorder | None = None
        self._line: list[Part] = []  # of the sessions before the current one, those that its stream went through

    @property
    def recorded(self) -> Recorded | None:
        """What has been written of the session being recorded; None if there is none."""
        current = self._current
        return current.recorded if current and current.writing else None

    def begin_at_once(self, beginning: Beginning) -> None:
        """Record into the folder itself; raise `SessionError` here and now if that cannot be."""
        writer = beginning.open(self.folder)
        self._current = Recorder(lambda: writer, beginning.moment, beginning.save_state, self._tell)

    def begin(self, beginning: Beginning, parent: Mapping[str, Any] | None = None) -> None:
        """Record into the next free folder."""
        folder, self._line = self.folder, []
        self._current = Recorder(lambda: beginning.open(new_folder(folder), parent), beginning.moment, beginning.save_state, self._tell)

    def go_on(self, beginning: Beginning, *, branched: bool) -> None:
        """If a session is being recorded, end it and record into the next folder; `branched` if the beginning may be a moment of it."""
        previous, folder = self._current, self.folder
        if not previous:
            return

        def open_next() -> SessionWriter:
            previous.close()
            self._line = [*self._line, *filter(None, [previous.part])] if branched else []
            parents = (part.parent(beginning.moment) for part in reversed(self._line))
            return beginning.open(new_folder(folder), next(filter(None, parents), None))

        self._current = Recorder(open_next, beginning.moment, beginning.save_state, self._tell)

    def finish(self, fps: float) -> None:
        """End the session being recorded."""
        current, self._current = self._current, None
        if not current:
            return

        def finish() -> str:
            current.close()
            return f"Saved {current.recorded.frames / fps:.0f} s in {current.directory}" if current.writing else ""

        self._beside.do(finish)

    def clip(self, beginning: Beginning, moments: Sequence[Moment], fps: float) -> None:
        """Save moments that have been, those after the beginning, as a session of their own."""
        folder = self.folder.with_name(self.folder.name + "-clip")

        def save() -> str:
            with beginning.open(new_folder(folder)) as writer:
                for moment in moments:
                    write(writer, moment, beginning.moment, beginning.save_state)
            return f"Saved the last {writer.num_frames / fps:.0f} s in {writer.directory}"

        self._beside.do(save)

    def append(self, moment: Moment) -> None:
        """Hand over one frame, if a session is being recorded."""
        if self._current:
            self._current.append(moment)

    def close(self) -> None:
        """Finish whatever is being written."""
        if self._current:
            self._current.close()
        self._beside.wait()
