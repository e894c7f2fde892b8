"""The line on which the player types a prompt, while the world goes on behind it."""

import pygame

MAX_PROMPT = 4000


class PromptLine:
    """Collect typed text between `open` and Enter or Escape."""

    def __init__(self) -> None:
        self.typed: str | None = None  # None: closed

    def open(self) -> None:
        """Begin an empty line; from now on letters are text."""
        self.typed = ""
        pygame.key.start_text_input()

    def handle(self, event: pygame.Event) -> str | None:
        """Take in a key or a piece of text; return the prompt when it is finished and not empty."""
        assert self.typed is not None, "only an open line is typed on"
        if event.type == pygame.TEXTINPUT:
            self.typed = (self.typed + event.text)[:MAX_PROMPT]
        elif event.key == pygame.K_BACKSPACE:
            self.typed = self.typed[:-1]
        elif event.key in (pygame.K_RETURN, pygame.K_KP_ENTER, pygame.K_ESCAPE):
            finished, self.typed = self.typed.strip(), None
            pygame.key.stop_text_input()
            return finished if finished and event.key != pygame.K_ESCAPE else None
        return None
