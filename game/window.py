"""The window: the display loop and the player's side of the game.

The game itself runs in a thread beside this loop, so the window answers while a tick is made or a world loads. The loop
wakes at once for a picture in the mailbox, and every two milliseconds for the events of the desktop (pygame's own waiting
polls for them as well, twice as often). Key events carry no time of their own in pygame; they are stamped as they are read.
While the game is paused nothing is urgent, and the loop sleeps nearly all of the time.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pygame

from controls.keyboard import Keyboard
from controls.keys import bindings
from game import hud, theme
from game.display import open_display, set_full_screen
from game.game import Game
from game.mailbox import Mailbox, Picture
from game.meters import KeyToPhoton
from game.pacing import Clock
from game.projector import Projector
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
        new_game: makes the game or the show, given the mailbox in which it shall leave its pictures. What its `run` returns is run next.
        keyboard: told of every key; the game's player takes from it.

    Raises:
        NoDisplayError: no window can be opened.
    """

    def __init__(
        self,
        new_game: Callable[[Mailbox], Game | Projector],
        keyboard: Keyboard,
        config: WindowConfig,
        clock: Clock | None = None,
    ) -> None:
        self._config, self._keyboard, self._clock = config, keyboard, clock or Clock()
        self._smooth, self._full_screen, self._hud, self._help = config.smooth, config.full_screen, config.hud, False
        self._mailbox = Mailbox()
        self._game: Any = new_game(self._mailbox)
        self._commands = bindings(self._game.commands)
        self._picture: Picture | None = None
        self._unseen_input_s: float | None = None
        self._notice, self._notice_until_s = "", 0.0
        self._turn = 0
        self._reaction = KeyToPhoton()
        self._open, self._dirty = True, False
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
                self._fetch()
                if self._dirty:
                    self._draw()
        finally:
            self._open = False
            self._game.stop()
            pygame.display.quit()  # at once: the last tick and the end of a recording need no window
            if thread.is_alive():
                thread.join(CLOSING_S)
        if self._failure:
            raise self._failure

    def _generate(self) -> None:
        try:
            while following := self._game.run():
                self._game, self._commands = following, bindings(following.commands)
                if not self._open:  # closed meanwhile; from here on, closing stops the one that follows
                    break
        except BaseException as error:  # nobody looks into this thread; the display loop raises it again
            self._failure = error
        self._open = False

    # What comes in.

    def _handle(self, event: pygame.Event) -> None:
        if event.type == pygame.KEYDOWN:
            self._keyboard.press(event.scancode, self._clock.now_s())
            command = self._commands.get(event.scancode)
            # With Alt or the system key held, a key belongs to the desktop (Alt+F4).
            if command and not self._keyboard.binds(event.scancode) and not event.mod & (pygame.KMOD_ALT | pygame.KMOD_GUI):
                (getattr(self, f"_{command}", None) or getattr(self._game, command))()
                self._dirty = True
        elif event.type == pygame.KEYUP:
            self._keyboard.release(event.scancode, self._clock.now_s())
            if self._commands.get(event.scancode) == "rewind":
                self._game.rewind(False)
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._keyboard.release_all()
            self._game.rewind(False)
        elif event.type == pygame.QUIT:
            self._open = False
        elif event.type in (pygame.WINDOWSIZECHANGED, pygame.WINDOWEXPOSED):
            self._dirty = True

    def _fetch(self) -> None:
        picture, sentences = self._mailbox.fetch()
        if picture:
            self._picture, self._unseen_input_s, self._dirty = picture, picture.input_s, True
        if sentences:
            self._say(" ".join(sentences))
        elif self._notice and self._clock.now_s() >= self._notice_until_s:
            self._notice, self._dirty = "", True
        turn = int(self._clock.now_s() / LOADING_TURN_S)
        if not self._picture and turn != self._turn:
            self._turn, self._dirty = turn, True

    def _say(self, words: str) -> None:
        self._notice, self._notice_until_s, self._dirty = words, self._clock.now_s() + NOTICE_S, True

    # What the player asks for, named as in `game.commands`.

    def _pause(self) -> None:
        self._game.pause(not self._game.paused)

    def _rewind(self) -> None:
        self._game.rewind(True)

    def _new_seed(self) -> None:
        self._game.restart(next_seed=True)
        self._say(f"Seed {self._game.seed}, start {self._game.start}")

    def _rollback(self) -> None:
        self._game.cycle_rollback()
        self._say(f"Rollback by {self._game.rollback} when the keys change" if self._game.rollback else "No rollback when the keys change")

    def _slot(self) -> None:
        self._game.slots.choose_next()
        self._say(f"Slot {self._game.slots.chosen}")

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
        if not self._picture or not self._game.card:
            return
        try:
            path = save_screenshot(self._scaled_frame(self._picture)[0], self._config.screenshots, self._game.card.name)
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
        screen, card, picture = pygame.display.get_surface(), self._game.card, self._picture
        assert screen is not None, "the window is open while the loop runs"
        middle, px = screen.get_rect(), theme.unit(screen.get_size())
        inner = middle.inflate(-2 * px, -2 * px)
        screen.fill(theme.GROUND)
        if picture and card:
            screen.blit(*self._scaled_frame(picture))
            timeline = self._game.timeline
            if self._hud and timeline:
                line = hud.timeline(timeline, card.fps, middle.width, px)
                screen.blit(line, line.get_rect(midbottom=inner.midbottom))
                inner.height -= line.get_height() + px
            elif self._hud:
                figures = hud.figures(picture, self._reaction.p50_p95_ms(), px)
                screen.blit(figures, figures.get_rect(topleft=inner.topleft))
            if self._hud:
                keys = hud.seen_keys(card.actions, picture.actions, px)
                screen.blit(keys, keys.get_rect(bottomleft=inner.bottomleft))
            if recorded := self._game.recording:
                light = hud.recording(recorded.frames / card.fps, recorded.num_bytes, px)
                screen.blit(light, light.get_rect(topright=inner.topright))
            if sign := self._game.sign:
                words = hud.sentence(sign, middle.width, px)
                screen.blit(words, words.get_rect(bottomright=inner.bottomright))
            if self._help:
                actions = () if timeline else card.actions  # in a replay the keys of the world mean nothing
                page = hud.help_page(card.title, card.description, actions, self._game.commands, px)
                screen.blit(page, page.get_rect(center=middle.center))
        else:
            loading = hud.loading(self._config.title, self._turn, px)
            screen.blit(loading, loading.get_rect(center=middle.center))
        if self._notice:
            notice = hud.sentence(self._notice, middle.width, px)
            screen.blit(notice, notice.get_rect(midbottom=(middle.centerx, inner.bottom - 3 * px)))
        pygame.display.flip()
        self._dirty = False
        if picture and picture.moment and picture.moment.flip_s is None:
            picture.moment.flip_s = self._clock.now_s()
        if self._unseen_input_s is not None:
            self._reaction.add(self._unseen_input_s, self._clock.now_s())
            self._unseen_input_s = None
