"""The sessions that come out of one game: the one being recorded, those being finished, and clips of what has been.

A session holds one unbroken stream. So when the player restarts, rewinds, loads a slot or goes over into another world while recording, one session ends and
the next one begins, in a folder of its own; after a rewind it names the one before as its parent.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from game.beside import Beside
from game.history import Moment
from game.recorder import Recorded, Recorder, next_folder, session_header, write
from world_model.session import SessionWriter


@dataclass(frozen=True)
class Beginning:
    """What a session begins with.

    Attributes:
        moment: the first frame of the session is the one after.
        facts: the arguments of `session_header`, without a parent.
        save_state: writes the moment's state to a path; None at a start of the world, which needs none.
    """

    moment: Moment
    facts: tuple[Any, int, int, int]
    save_state: Callable[[Path], None] | None

    def open(self, directory: Path, parent: Mapping[str, Any] | None = None) -> SessionWriter:
        """Begin to write the session into a new folder; raise `SessionError` or `StateError` if that cannot be."""
        return SessionWriter(directory, session_header(*self.facts, parent), save_state=self.save_state)


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
        self._naming = threading.Lock()  # two clips at once must not choose the same name

    @property
    def recorded(self) -> Recorded | None:
        """What has been written of the session being recorded; None if there is none."""
        current = self._current
        return current.recorded if current and current.writing else None

    def begin_at_once(self, beginning: Beginning) -> None:
        """Record into the folder itself; raise `SessionError` here and now if that cannot be."""
        writer = beginning.open(self.folder)
        self._current = Recorder(lambda: writer, beginning.moment, self._tell)

    def begin(self, beginning: Beginning, parent: Mapping[str, Any] | None = None) -> None:
        """Record into the next free folder."""
        folder = self.folder
        self._current = Recorder(lambda: beginning.open(next_folder(folder), parent), beginning.moment, self._tell)

    def go_on(self, beginning: Beginning, *, branched: bool) -> None:
        """If a session is being recorded, end it and record into the next folder; `branched` if the beginning may be a moment of it."""
        previous, folder = self._current, self.folder
        if not previous:
            return

        def open_next() -> SessionWriter:
            previous.close()
            return beginning.open(next_folder(folder), previous.parent(beginning.moment) if branched else None)

        self._current = Recorder(open_next, beginning.moment, self._tell)

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
            with self._naming:
                opened = beginning.open(next_folder(folder))
            with opened as writer:
                for moment in moments:
                    write(writer, moment, beginning.moment)
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
