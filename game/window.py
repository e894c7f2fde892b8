"""The window: the display loop and the player's side of the game.

The game itself runs in a thread beside this loop, so the window answers while a tick is made or a world loads. The loop
wakes at once for a picture in the mailbox, and every two milliseconds for the events of the desktop (pygame's own waiting
polls for them as well, twice as often). Key events carry no time of their own in pygame; they are stamped as they are read.
While the game is paused nothing is urgent, and the loop sleeps nearly all of the time.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pygame

from controls.gamepad import Gamepads
from controls.keyboard import Keyboard
from controls.keys import CODES, ActionSpec, bindings
from game import hud, theme
from game.display import open_display, set_full_screen
from game.game import Game
from game.gate import Gate
from game.key_menu import KeyMenu
from game.mailbox import Mailbox, Picture
from game.meters import KeyToPhoton
from game.pacing import Clock
from game.picker import Picker
from game.projector import Projector
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
        new_game: makes the game or the show, given the mailbox in which it shall leave its pictures. What its `run` returns is run next.
        keyboard: told of every key; the game's player takes from it.
        gate: the way into other worlds, if there is one.

    Raises:
        NoDisplayError: no window can be opened.
    """

    def __init__(
        self,
        new_game: Callable[[Mailbox], Game | Projector],
        keyboard: Keyboard,
        config: WindowConfig,
        clock: Clock | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._config, self._keyboard, self._clock, self._gate = config, keyboard, clock or Clock(), gate
        self._smooth, self._full_screen, self._hud, self._help = config.smooth, config.full_screen, config.hud, False
        self._mailbox = Mailbox()
        self._game: Any = new_game(self._mailbox)
        self._commands = bindings(self._game.commands)
        self._picture: Picture | None = None
        self._next: Picture | None = None  # waits for the reel of the one before
        self._shown_s, self._place = 0.0, -1  # since when the reel is shown, and its frame on the screen
        self._prompt = PromptLine()
        self._page: Picker | KeyMenu | None = None  # lies over the game and has the keys
        self._page_place = (0, 0)  # where it was drawn
        self._previewed: Any = None  # the picture of another world on the page
        self._title = config.title
        self._unseen_input_s: float | None = None
        self._notice, self._notice_until_s = "", 0.0
        self._turn = 0
        self.reaction = KeyToPhoton()
        self._open, self._ended, self._dirty = True, False, False
        self._failure: BaseException | None = None
        open_display(config.title, config.full_screen)
        self._pads = Gamepads()

    def run(self) -> None:
        """Play until the player leaves or the game ends; raise what the game's thread raised."""
        thread = threading.Thread(target=self._generate, name="generation", daemon=True)
        try:
            self._draw()  # before the world's code is even imported, which takes seconds
            thread.start()
            if self._gate:
                self._gate.shelf.open()
            if self._keyboard.layout.notice:
                self._say(self._keyboard.layout.notice)
            while self._open:
                playing = self._picture and not self._game.paused
                self._mailbox.wait(PLAYING_POLL_S if playing else PAUSED_POLL_S)
                for event in pygame.event.get():
                    self._handle(event)
                    if self._keyboard.waits:
                        self._game.hurry()
                ended = self._ended
                self._fetch_world()
                self._fetch()
                if ended and not self._next and not self._turn_reel():
                    self._open = False
                if self._dirty:
                    self._draw()
        finally:
            self._open = False
            self._game.stop()
            self._pads.close()
            pygame.display.quit()  # at once: the last tick and the end of a recording need no window
            if self._gate:
                self._gate.close()
            if thread.is_alive():
                thread.join(CLOSING_S)
            for sentence in self._mailbox.fetch()[1]:  # of the end of a recording; there is no window any more to say it in
                print(sentence, file=sys.stderr)
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
        self._ended = True

    # What comes in.

    def _handle(self, event: pygame.Event) -> None:
        if self._prompt.typed is not None and event.type in (pygame.KEYDOWN, pygame.TEXTINPUT):
            prompt = self._prompt.handle(event)
            if prompt:
                self._game.say(prompt)
            self._dirty = True
        elif event.type == pygame.KEYDOWN:
            # With Alt or the system key held, a key belongs to the desktop (Alt+F4).
            self._press(event.scancode, alone=not event.mod & (pygame.KMOD_ALT | pygame.KMOD_GUI))
        elif event.type == pygame.KEYUP:
            self._release(event.scancode)
        elif event.type == pygame.DROPFILE and self._gate and "worlds" in self._commands.values():
            self._gate.shelf.add(Path(event.file))
            self._page, self._dirty = Picker(self._gate, Path(event.file).resolve()), True
        elif event.type in (pygame.MOUSEMOTION, pygame.MOUSEBUTTONDOWN) and self._page:
            self._point(event)
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._keyboard.release_all()
            self._game.rewind(False)
        elif event.type == pygame.QUIT:
            self._open = False
        elif event.type in (pygame.WINDOWSIZECHANGED, pygame.WINDOWEXPOSED):
            self._dirty = True
        for code, down in self._pads.handle(event):
            (self._press if down else self._release)(code)
        if event.type in (pygame.CONTROLLERAXISMOTION, pygame.CONTROLLERDEVICEREMOVED):
            self._keyboard.tilt(self._pads.tilts, self._clock.now_s(), further=not self._page)
        if self._pads.notice:
            self._say(self._pads.notice)

    def _press(self, code: int, *, alone: bool = True) -> None:
        if self._page:
            self._turn_page(self._page.press(code))
            return
        command = self._commands.get(code)
        self._keyboard.press(code, self._clock.now_s())
        if command and alone and not self._keyboard.binds(code):
            if command == "switch":
                self._switch(code - CODES["1"])
            else:
                (getattr(self, f"_{command}", None) or getattr(self._game, command))()
            self._dirty = True

    def _release(self, code: int) -> None:
        self._keyboard.release(code, self._clock.now_s())
        if self._commands.get(code) == "rewind":
            self._game.rewind(False)

    def _point(self, event: pygame.Event) -> None:
        assert self._page, "only a page is pointed at"
        clicked = event.type == pygame.MOUSEBUTTONDOWN and event.button == pygame.BUTTON_LEFT
        place = event.pos[0] - self._page_place[0], event.pos[1] - self._page_place[1]
        self._turn_page(self._page.point(place, clicked))

    def _turn_page(self, stays: bool) -> None:
        self._dirty = True
        if not stays:
            self._page = None

    def _fetch_world(self) -> None:
        arrival = self._gate.fetch(getattr(self._game, "world", None)) if self._gate else None  # a replay plays none
        if self._gate and self._page and self._previewed is not self._gate.preview.picture:
            self._previewed, self._dirty = self._gate.preview.picture, True
        if arrival and arrival.world:
            self._game.swap(arrival.world, keep_screen=arrival.keep_screen)
        elif arrival:
            self._say(arrival.refusal)

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
        picture, card = self._picture, self._game.card
        if not picture or not card or picture.reel is None:
            return False
        place = int((self._clock.now_s() - self._shown_s) * card.fps)
        if self._place != place < len(picture.reel):
            self._picture, self._place, self._dirty = replace(picture, frame=picture.reel[place]), place, True
        return place < len(picture.reel)

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

    def _type_prompt(self) -> None:
        card = self._game.card
        if card and card.listens:
            self._prompt.open()
        elif card:
            self._say("This world obeys keys, not words")

    def _worlds(self) -> None:
        self._page = Picker(self._gate) if self._gate else None

    def _switch(self, number: int) -> None:
        entries = self._gate.shelf.entries if self._gate else ()
        if self._gate and number < len(entries):
            self._gate.enter(entries[number].path)

    def _keys(self) -> None:
        self._page = KeyMenu(lambda: self._game.card.actions if self._game.card else (), self._keyboard, self._say)

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
        if card and card.title != self._title:
            self._title = card.title
            pygame.display.set_caption(self._title)
        if picture and card:
            actions: Sequence[ActionSpec] = self._keyboard.layout.of(card.actions)
            screen.blit(*self._scaled_frame(picture))
            timeline = self._game.timeline
            if self._hud and timeline:
                line = hud.timeline(timeline, card.fps, middle.width, px)
                screen.blit(line, line.get_rect(midbottom=inner.midbottom))
                inner.height -= line.get_height() + px
            elif self._hud:
                figures = hud.figures(picture, self.reaction.p50_p95_ms(), px)
                screen.blit(figures, figures.get_rect(topleft=inner.topleft))
            if self._hud:
                if card.listens:
                    asked = hud.sentence(self._game.prompt or "Press Enter and type what is to be seen.", middle.width, px)
                else:
                    asked = hud.seen_keys(actions, picture.actions, px)
                screen.blit(asked, asked.get_rect(bottomleft=inner.bottomleft))
            if recorded := self._game.recording:
                light = hud.recording(recorded.frames / card.fps, recorded.num_bytes, px)
                screen.blit(light, light.get_rect(topright=inner.topright))
            if sign := self._game.sign or (self._gate and self._gate.sign):
                shown = hud.sentence(sign, middle.width, px)
                screen.blit(shown, shown.get_rect(bottomright=inner.bottomright))
            if self._help:
                actions = () if timeline else actions  # in a replay the keys of the world mean nothing
                shown = hud.help_page(card.title, card.description, actions, self._game.commands, px)
                screen.blit(shown, shown.get_rect(center=middle.center))
        else:
            loading = hud.loading(self._config.title, self._turn, px)
            screen.blit(loading, loading.get_rect(center=middle.center))
        if self._page:
            shown = self._page.draw(picture.frame if picture else None, px)
            self._page_place = shown.get_rect(center=middle.center).topleft
            screen.blit(shown, self._page_place)
        words = self._notice if self._prompt.typed is None else f"> {self._prompt.typed}_"
        if words:
            notice = hud.sentence(words, middle.width, px)
            screen.blit(notice, notice.get_rect(midbottom=(middle.centerx, inner.bottom - 3 * px)))
        pygame.display.flip()
        self._dirty = False
        if picture and picture.moment and picture.moment.flip_s is None:
            picture.moment.flip_s = self._clock.now_s()
        if self._unseen_input_s is not None:
            self.reaction.add(self._unseen_input_s, self._clock.now_s())
            self._unseen_input_s = None
