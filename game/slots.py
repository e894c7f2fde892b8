"""Save slots: moments that the player keeps on the disk, for every version of every world its own. They survive the end of the program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from game.beside import Beside
from game.stage import Stream, World

SLOTS = 4


class Slots:
    """Save and load states of a world's streams, in one chosen slot after the other.

    Args:
        folder: of all slots of all worlds.
        tell: called with sentences for the player.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.chosen = 1
        self._folder, self._tell, self._beside = folder, tell, Beside(tell)

    def choose_next(self) -> None:
        """Choose the next slot, and after the last the first."""
        self.chosen = self.chosen % SLOTS + 1

    def save(self, world: World, stream: Stream, saved: dict[str, Any]) -> None:
        """Write a state of the stream into the chosen slot, beside the game, in place of what was there."""
        chosen = self.chosen

        def save() -> str:
            path = self._file(world, chosen)
            path.parent.mkdir(parents=True, exist_ok=True)
            stream.save(path, saved)
            return f"Saved in slot {chosen}"

        self._beside.do(save)

    def load(self, world: World, stream: Stream) -> dict[str, Any] | None:
        """Return the state in the chosen slot, for the stream to restore; if there is none, say why and return None."""
        self.wait()  # it may be just being saved
        try:
            path = self._file(world, self.chosen)
            if path.exists():
                return stream.load(path)
            self._tell(f"Slot {self.chosen} is empty")
        except (ValueError, OSError) as error:
            self._tell(str(error))
        return None

    def wait(self) -> None:
        """Wait until everything is on the disk."""
        self._beside.wait()

    def _file(self, world: World, number: int) -> Path:
        return self._folder / f"{world.card.name}-{world.sha256[:12]}" / f"{number}.safetensors"
