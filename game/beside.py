"""Work that would hold up the game, such as writing a file, done beside it."""

import threading
from collections.abc import Callable


class Beside:
    """Do work in threads of its own and tell the player what it came to.

    Args:
        tell: called from those threads with a sentence for the player.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._threads: list[threading.Thread] = []

    def do(self, work: Callable[[], str]) -> None:
        """Begin work that returns what to tell, or nothing; a ValueError is told instead, and where an OSError said no."""

        def attempt() -> None:
            try:
                sentence = work()
            except ValueError as error:
                sentence = str(error)
            except OSError as error:
                sentence = f"Cannot write {error.filename}: {error.strerror}."
            if sentence:
                self._tell(sentence)

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=attempt, daemon=True))
        self._threads[-1].start()

    def wait(self) -> None:
        """Wait until all work is done."""
        for thread in self._threads:
            thread.join()
