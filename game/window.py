"""The window: the display loop and the player's side of the game.

The game itself runs in a thread beside this loop, so the window answers while a tick is made or a world loads. The loop
wakes at once for a picture in the mailbox, and every two milliseconds for the events of the desktop (pygame's own waiting
polls for them as well, twice as often). Key events carry no time of their own in pygame; they are stamped as they are read.
While the game is paused nothing is urgent, and the loop sleeps nearly all of the time.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pygame

from controls.keyboard import Keyboard
from controls.keys import bindings
from game import hud, theme
from game.commands import COMMANDS
from game.display import open_display, set_full_screen
from game.game import Game
from game.mailbox import Mailbox, Picture
from game.meters import KeyToPhoton
from game.pacing import Clock
from game.prompt_line import PromptLine
from game.view import placed, save_screenshot, scaled

NOTICE_S = 5.0
LOADING_TURN_S = 0.15
PLAYING_POLL_S = 0.002
PAUSED_POLL_S = 0.03
CLOSING_S = 5.0


@dataclass(frozen=True)
class WindowConfig:
    """How the world is shown."""

    title: str
    smooth: bool = False
    full_screen: bool = False
    hud: bool = True
    screenshots: Path = Path("screenshots")


class Window:
    """Show a game and hand it what the player does.

    Args:
        new_game: makes the game, given the mailbox in which it shall leave its pictures.
        keyboard: told of every key; the game's player takes from it.

    Raises:
        NoDisplayError: no window can be opened.
    """

    def __init__(
        self,
        new_game: Callable[[Mailbox], Game],
        keyboard: Keyboard,
        config: WindowConfig,
        clock: Clock | None = None,
    ) -> None:
        self._config, self._keyboard, self._clock = config, keyboard, clock or Clock()
        self._smooth, self._full_screen, self._hud, self._help = config.smooth, config.full_screen, config.hud, False
        self._commands = bindings(COMMANDS)
        self._mailbox = Mailbox()
        self._game = new_game(self._mailbox)
        self._picture: Picture | None = None
        self._next: Picture | None = None  # waits for the reel of the one before
        self._shown_s, self._place = 0.0, -1  # since when the reel is shown, and its frame on the screen
        self._prompt = PromptLine()
        self._unseen_input_s: float | None = None
        self._notice, self._notice_until_s = "", 0.0
        self._turn = 0
        self.reaction = KeyToPhoton()
        self._open, self._ended, self._dirty = True, False, False
        self._failure: BaseException | None = None
        open_display(config.title, config.full_screen)

    def run(self) -> None:
        """Play until the player leaves or the game ends; raise what the game's thread raised."""
        thread = threading.Thread(target=self._generate, name="generation", daemon=True)
        try:
            self._draw()  # before the world's code is even imported, which takes seconds
            thread.start()
            while self._open:
                playing = self._picture and not self._game.paused
                self._mailbox.wait(PLAYING_POLL_S if playing else PAUSED_POLL_S)
                for event in pygame.event.get():
                    self._handle(event)
                ended = self._ended
                self._fetch()
                if ended and not self._next and not self._turn_reel():
                    self._open = False
                if self._dirty:
                    self._draw()
        finally:
            self._game.stop()
            pygame.display.quit()  # at once: the last tick and the end of a recording need no window
            if thread.is_alive():
                thread.join(CLOSING_S)
        if self._failure:
            raise self._failure

    def _generate(self) -> None:
        try:
            self._game.run()
        except BaseException as error:  # nobody looks into this thread; the display loop raises it again
            self._failure = error
        self._ended = True

    # What comes in.

    def _handle(self, event: pygame.Event) -> None:
        if self._prompt.typed is not None and event.type in (pygame.KEYDOWN, pygame.TEXTINPUT):
            prompt = self._prompt.handle(event)
            if prompt:
                self._game.say(prompt)
            self._dirty = True
        elif event.type == pygame.KEYDOWN:
            self._keyboard.press(event.scancode, self._clock.now_s())
            command = self._commands.get(event.scancode)
            # With Alt or the system key held, a key belongs to the desktop (Alt+F4).
            if command and not self._keyboard.binds(event.scancode) and not event.mod & (pygame.KMOD_ALT | pygame.KMOD_GUI):
                getattr(self, f"_{command}")()
                self._dirty = True
        elif event.type == pygame.KEYUP:
            self._keyboard.release(event.scancode, self._clock.now_s())
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._keyboard.release_all()
        elif event.type == pygame.QUIT:
            self._open = False
        elif event.type in (pygame.WINDOWSIZECHANGED, pygame.WINDOWEXPOSED):
            self._dirty = True

    def _fetch(self) -> None:
        picture, sentences = self._mailbox.fetch()
        self._next = picture or self._next
        if not self._turn_reel() and self._next:
            self._picture, self._next = self._next, None
            self._shown_s, self._place = self._clock.now_s(), -1
            self._unseen_input_s, self._dirty = self._picture.input_s, True
            self._turn_reel()
        if sentences:
            self._say(" ".join(sentences))
        elif self._notice and self._clock.now_s() >= self._notice_until_s:
            self._notice, self._dirty = "", True
        turn = int(self._clock.now_s() / LOADING_TURN_S)
        if not self._picture and turn != self._turn:
            self._turn, self._dirty = turn, True

    def _turn_reel(self) -> bool:
        """Show the frame of the block on the screen whose time it is; return whether there are more to come."""
        picture, world = self._picture, self._game.world
        if not picture or not world or picture.reel is None:
            return False
        place = int((self._clock.now_s() - self._shown_s) * world.card.fps)
        if self._place != place < len(picture.reel):
            self._picture, self._place, self._dirty = replace(picture, frame=picture.reel[place]), place, True
        return place < len(picture.reel)

    def _say(self, words: str) -> None:
        self._notice, self._notice_until_s, self._dirty = words, self._clock.now_s() + NOTICE_S, True

    # What the player asks for, named as in `game.commands`.

    def _pause(self) -> None:
        self._game.pause(not self._game.paused)

    def _step(self) -> None:
        self._game.step()

    def _restart(self) -> None:
        self._game.restart()

    def _new_seed(self) -> None:
        self._game.restart(next_seed=True)
        self._say(f"Seed {self._game.seed}, start {self._game.start}")

    def _rollback(self) -> None:
        self._game.cycle_rollback()
        self._say(f"Rollback by {self._game.rollback} when the keys change" if self._game.rollback else "No rollback when the keys change")

    def _type_prompt(self) -> None:
        world = self._game.world
        if world and world.card.parts:
            self._prompt.open()
        elif world:
            self._say("This world obeys keys, not words")

    def _help_page(self) -> None:
        self._help = not self._help

    def _figures(self) -> None:
        self._hud = not self._hud

    def _scaling(self) -> None:
        self._smooth = not self._smooth
        self._say("Smooth pixels" if self._smooth else "Sharp pixels")

    def _toggle_full_screen(self) -> None:
        self._full_screen = not self._full_screen
        set_full_screen(self._full_screen)

    def _screenshot(self) -> None:
        world = self._game.world
        if not self._picture or not world:
            return
        try:
            path = save_screenshot(self._scaled_frame(self._picture)[0], self._config.screenshots, world.card.name)
            self._say(f"Saved {path}")
        except (OSError, pygame.error) as error:
            self._say(f"The screenshot could not be saved: {error}")

    def _leave(self) -> None:
        if self._help:
            self._help = False
        else:
            self._open = False

    # What the player sees.

    def _scaled_frame(self, picture: Picture) -> tuple[pygame.Surface, pygame.Rect]:
        height, width, _ = picture.frame.shape
        place = placed((width, height), pygame.display.get_window_size(), self._smooth)
        return scaled(picture.frame, place.size, self._smooth), place

    def _draw(self) -> None:
        screen, world, picture = pygame.display.get_surface(), self._game.world, self._picture
        assert screen is not None, "the window is open while the loop runs"
        middle, px = screen.get_rect(), theme.unit(screen.get_size())
        inner = middle.inflate(-2 * px, -2 * px)
        screen.fill(theme.GROUND)
        if picture and world:
            screen.blit(*self._scaled_frame(picture))
            if self._hud:
                figures = hud.figures(picture, self.reaction.p50_p95_ms(), self._game.recording, px)
                screen.blit(figures, figures.get_rect(topleft=inner.topleft))
                if world.card.parts:
                    asked = hud.sentence(self._game.prompt or "Press Enter and type what is to be seen.", middle.width, px)
                else:
                    asked = hud.seen_keys(world.card.actions, picture.actions, px)
                screen.blit(asked, asked.get_rect(bottomleft=inner.bottomleft))
            if self._game.paused:
                paused = hud.sentence("Paused", middle.width, px)
                screen.blit(paused, paused.get_rect(bottomright=inner.bottomright))
            if self._help:
                page = hud.help_page(world.card.title, world.card.description, world.card.actions, px)
                screen.blit(page, page.get_rect(center=middle.center))
        else:
            loading = hud.loading(self._config.title, self._turn, px)
            screen.blit(loading, loading.get_rect(center=middle.center))
        words = self._notice if self._prompt.typed is None else f"> {self._prompt.typed}_"
        if words:
            notice = hud.sentence(words, middle.width, px)
            screen.blit(notice, notice.get_rect(midbottom=(middle.centerx, inner.bottom - 3 * px)))
        pygame.display.flip()
        self._dirty = False
        if self._unseen_input_s is not None:
            self.reaction.add(self._unseen_input_s, self._clock.now_s())
            self._unseen_input_s = None
