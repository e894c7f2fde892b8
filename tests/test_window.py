"""The window: what the player sees, and the game played in one on SDL's dummy display under the real clock."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pygame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_world import CARD, FORWARD, LEFT, TURN, UP, ToyWorld

from controls.keyboard import Keyboard
from controls.keys import SCANCODES, bindings
from controls.tape import Tape
from game import hud, theme
from game.commands import COMMANDS, REPLAY_COMMANDS, commands_beside
from game.game import Game, GameConfig
from game.mailbox import Picture
from game.meters import Speed
from game.play import NullScreen
from game.projector import Projector, Timeline
from game.view import placed, save_screenshot
from game.widgets import key_cap
from game.window import Window, WindowConfig
from world_model.card import ActionSpec
from world_model.session import Session, action_vectors

FAST = msgspec.structs.replace(CARD, fps=100.0)


# What the player sees


@given(*[st.integers(1, 2000)] * 4, st.booleans())
def test_a_frame_is_placed_inside_the_window(width: int, height: int, window_width: int, window_height: int, smooth: bool) -> None:
    rect = placed((width, height), (window_width, window_height), smooth)
    assert pygame.Rect(0, 0, window_width, window_height).contains(rect)
    if not smooth and rect.width >= width and rect.height >= height:
        assert rect.width % width == 0 and rect.height % height == 0
        assert rect.width // width == rect.height // height


def test_screenshots_never_overwrite(tmp_path: Path) -> None:
    picture = pygame.Surface((4, 4))
    paths = [save_screenshot(picture, tmp_path / "new", "toy") for _ in range(3)]
    assert [path.name for path in paths] == ["toy-001.png", "toy-002.png", "toy-003.png"]
    assert pygame.image.load(paths[2]).get_size() == (4, 4)


def test_the_games_keys_yield_to_the_worlds() -> None:
    commands = commands_beside([ActionSpec("run", ("r", "p"), "Run")])
    keys = {command.name: command.keys for command in commands}
    assert keys["restart"] == () and keys["pause"] == ("pause", "pad_start")
    usual = {"up", "down", "left", "right", "w", "a", "s", "d", "space", "lctrl", "lshift"}
    assert not usual & {key for command in COMMANDS for key in command.keys}
    for commands, show in ((COMMANDS, Game), (REPLAY_COMMANDS, Projector)):
        assert all(hasattr(Window, f"_{command.name}") or hasattr(show, command.name) for command in commands)
        assert len(bindings(commands)) == sum(len(command.keys) for command in commands)


@pytest.mark.parametrize("window", [(640, 480), (1024, 768), (3840, 2160)])
def test_everything_fits_in_the_window(window: tuple[int, int]) -> None:
    pygame.font.init()
    px = theme.unit(window)
    pieces = [
        hud.figures(Picture(np.zeros((1, 1, 3), np.uint8), 123456, (), None, Speed(17.5, 1.0, 31.4, 0.25), 4, 2), (123.0, 234.0), px),
        hud.recording(3601.0, 123_456_789, px),
        hud.seen_keys(CARD.actions, (FORWARD,), px),
        hud.help_page("A world", "Many words. " * 10, CARD.actions, COMMANDS, px),
        hud.help_page("A session", "", (), REPLAY_COMMANDS, px),
        hud.timeline(Timeline(98765, 123456, 0.25, 43.21), 17.5, window[0], px),
        hud.sentence("A very long sentence for the player. " * 5, window[0], px),
        hud.loading("A world", 1, px),
    ]
    for piece in pieces:
        assert piece.get_width() <= window[0] and piece.get_height() <= window[1]


def test_the_hud_lights_the_keys_that_the_model_saw() -> None:
    pygame.font.init()
    lit = [pygame.surfarray.array3d(hud.seen_keys(CARD.actions, seen, 20)) for seen in ((), (FORWARD,), (TURN,))]
    half = lit[0].shape[0] // 2
    assert (lit[0][:half] != lit[1][:half]).any() and (lit[0][half:] == lit[1][half:]).all()
    assert (lit[0][:half] == lit[2][:half]).all() and (lit[0][half:] != lit[2][half:]).any()


# The window, on SDL's dummy display


def key(kind: int, scancode: int) -> None:
    pygame.event.post(pygame.Event(kind, scancode=scancode, key=0, mod=0))


def tap(name: str) -> None:
    key(pygame.KEYDOWN, SCANCODES[name])
    key(pygame.KEYUP, SCANCODES[name])


def until(condition: Callable[[], bool]) -> None:
    """Wait for the other thread."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.001)


def act_in(window: Window, story: Callable[[], None]) -> None:
    """Run a window while `story` acts beside it as a person would; it is closed when the story ends, and what failed in the story is raised."""
    failures: list[BaseException] = []

    def act() -> None:
        try:
            story()
        except BaseException as error:
            failures.append(error)
        with contextlib.suppress(pygame.error):  # the window may have closed already
            pygame.event.post(pygame.Event(pygame.QUIT))

    person = threading.Thread(target=act)
    person.start()
    window.run()
    person.join()
    if failures:
        raise failures[0]


def play_in_window(world: ToyWorld, story: Callable[[Window], None], folder: Path, load: Callable[[], None] = lambda: None) -> None:
    """Play in a window while `story` acts beside it as a person would; the window is closed when the story ends."""
    keyboard = Keyboard()

    def open_world() -> ToyWorld:
        load()
        return world

    window = Window(lambda mailbox: Game(open_world, keyboard, mailbox), keyboard, WindowConfig("Toy", screenshots=folder))
    act_in(window, lambda: story(window))


def test_the_window_hands_a_tap_to_exactly_one_tick(tmp_path: Path) -> None:
    world = ToyWorld(FAST)

    def story(window: Window) -> None:
        until(lambda: len(world.asked) > 5)
        tap("up")
        until(lambda: (FORWARD,) in world.asked)
        seen = len(world.asked)
        until(lambda: len(world.asked) > seen + 5)

    play_in_window(world, story, tmp_path)
    assert world.asked.count((FORWARD,)) == 1 and set(world.asked) == {(FORWARD,), ()}


def test_the_newest_frames_are_on_the_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, shown = ToyWorld(FAST), []
    flip = pygame.display.flip

    def remember() -> None:
        screen = pygame.display.get_surface()
        number, green, seed, _ = screen.get_at(screen.get_rect().center)
        if seed == 0:  # the ground behind the loading sign is another colour
            shown.append((number, green, len(world.asked)))
        flip()

    def story(window: Window) -> None:
        until(lambda: len(world.asked) > 5)
        key(pygame.KEYDOWN, UP)
        until(lambda: any(green for _, green, _ in shown))
        until(lambda: window.reaction.p50_p95_ms() is not None)

    monkeypatch.setattr(pygame.display, "flip", remember)
    play_in_window(world, story, tmp_path)
    numbers = [number for number, _, _ in shown]
    assert numbers == sorted(set(numbers))
    assert all(asked - number <= 2 for number, _, asked in shown), "no queue between the tick and the screen"
    assert all(green == 255 * (FORWARD in world.asked[number - 1]) for number, green, _ in shown if number)


def test_the_window_hears_keys_while_the_world_loads(tmp_path: Path) -> None:
    world, loaded = ToyWorld(FAST), threading.Event()

    def story(window: Window) -> None:
        key(pygame.KEYDOWN, UP)
        key(pygame.KEYDOWN, LEFT)
        key(pygame.KEYUP, UP)
        until(lambda: not pygame.event.peek(pygame.KEYUP))
        time.sleep(0.05)
        assert not world.asked
        loaded.set()
        until(lambda: len(world.asked) > 5)

    play_in_window(world, story, tmp_path, load=lambda: loaded.wait(5) and None)
    assert world.asked[0] == (FORWARD, TURN), "the tap of before is not lost"
    assert set(world.asked[1:]) == {(TURN,)}, "and its key-up is not lost either"


def test_keys_are_chosen_in_the_menu_and_a_gamepad_plays(tmp_path: Path) -> None:
    world = ToyWorld(FAST)

    def story(window: Window) -> None:
        until(lambda: len(world.asked) > 3)
        for name in ("f10", "down", "return", "q", "escape"):
            tap(name)
        until(lambda: window._page is None and window._keyboard.binds(SCANCODES["q"]))
        assert set(world.asked) == {()}, "the keys of the menu do not reach the world"
        tap("q")
        until(lambda: (TURN,) in world.asked)
        pygame.event.post(pygame.Event(pygame.CONTROLLERBUTTONDOWN, instance_id=1, button=11))
        until(lambda: world.asked[-1] == (FORWARD,))
        pygame.event.post(pygame.Event(pygame.CONTROLLERDEVICEREMOVED, instance_id=1))
        until(lambda: world.asked[-1] == ())
        pygame.event.post(pygame.Event(pygame.CONTROLLERBUTTONDOWN, instance_id=1, button=6))
        until(lambda: window._game.paused)

    play_in_window(world, story, tmp_path)


def test_losing_the_focus_lets_go_of_all_keys(tmp_path: Path) -> None:
    world = ToyWorld(FAST)

    def story(window: Window) -> None:
        key(pygame.KEYDOWN, UP)
        until(lambda: (FORWARD,) in world.asked)
        pygame.event.post(pygame.Event(pygame.WINDOWFOCUSLOST))
        until(lambda: world.asked[-1] == ())
        seen = len(world.asked)
        until(lambda: len(world.asked) > seen + 5)
        assert set(world.asked[seen:]) == {()}

    play_in_window(world, story, tmp_path)


def test_pause_step_restart_and_new_seed_by_key(tmp_path: Path) -> None:
    world = ToyWorld(FAST)

    def story(window: Window) -> None:
        until(lambda: len(world.asked) > 3)
        tap("p")
        until(lambda: window._game.paused)
        time.sleep(0.05)
        still = len(world.asked)
        time.sleep(0.1)
        assert len(world.asked) == still, "time stands still"
        tap("n")
        until(lambda: len(world.asked) == still + 1)
        time.sleep(0.05)
        assert len(world.asked) == still + 1, "one step is one tick"
        tap("p")
        until(lambda: len(world.asked) > still + 3)
        tap("r")
        until(lambda: len(world.streams) == 2)
        tap("f2")
        until(lambda: len(world.streams) == 3)

    play_in_window(world, story, tmp_path)
    assert world.streams == [(0, 0), (0, 0), (1, 1)]


def test_a_red_dot_is_shown_while_a_session_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, dots, flip = ToyWorld(FAST), list[bool](), pygame.display.flip

    def count() -> None:
        screen = pygame.display.get_surface()
        assert screen
        corner = screen.subsurface((screen.get_width() * 2 // 3, 0, screen.get_width() // 3, screen.get_height() // 4))
        dots.append(bool((abs(pygame.surfarray.array3d(corner).astype(int) - theme.RECORDING) < 12).all(2).any()))
        flip()

    def story(window: Window) -> None:
        until(lambda: len(world.asked) > 3)
        assert not any(dots)
        tap("f8")
        until(lambda: dots[-1])
        tap("up")
        until(lambda: (FORWARD,) in world.asked)
        shown = len(dots) + 3
        until(lambda: len(dots) > shown)
        tap("f8")
        until(lambda: not dots[-1])

    monkeypatch.setattr(pygame.display, "flip", count)
    monkeypatch.chdir(tmp_path)
    play_in_window(world, story, tmp_path)
    ticks = Session(tmp_path / "recordings" / "toy").ticks()
    times = [(tick.input_s, tick.flip_s) for tick in ticks if tick.actions == (FORWARD,)]
    assert len(times) == 1 and times[0][0] is not None, "when the key went down"
    assert times[0][1] is None or times[0][0] < times[0][1], "and when its frame was on the screen, if it was not passed over"
    assert any(tick.flip_s for tick in ticks)


def test_help_figures_scaling_full_screen_and_screenshots_by_key(tmp_path: Path) -> None:
    world = ToyWorld(FAST)

    def story(window: Window) -> None:
        until(lambda: len(world.asked) > 3)
        for name in ("f1", "f3", "f4", "f11", "f12", "f12"):
            tap(name)
        until(lambda: len(list(tmp_path.glob("*.png"))) == 2)
        assert window._help and window._smooth and window._full_screen and not window._hud
        tap("escape")
        until(lambda: not window._help)
        assert window._open, "Esc closes the help before it closes the game"
        pygame.event.post(pygame.Event(pygame.WINDOWSIZECHANGED))

    play_in_window(world, story, tmp_path)


def test_a_screenshot_that_cannot_be_saved_is_told_in_the_window(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    world, told = ToyWorld(FAST), []

    def story(window: Window) -> None:
        until(lambda: len(world.asked) > 3)
        tap("f12")
        until(lambda: "could not be saved" in window._notice)
        told.append(window._notice)
        seen = len(world.asked)
        until(lambda: len(world.asked) > seen + 3)

    play_in_window(world, story, tmp_path / "file")
    assert told


def test_what_goes_wrong_in_the_games_thread_reaches_the_player(tmp_path: Path) -> None:
    def stumble(number: int) -> None:
        if number == 3:
            raise RuntimeError("stumbled")

    with pytest.raises(RuntimeError, match="stumbled"):
        play_in_window(ToyWorld(FAST, stumble), lambda window: until(lambda: not window._open), tmp_path)


def test_closing_the_window_while_a_world_loads_ends_the_game(tmp_path: Path) -> None:
    closed = threading.Event()
    world = ToyWorld(FAST)
    with pytest.MonkeyPatch.context() as patch:
        quit_display = pygame.display.quit
        patch.setattr(pygame.display, "quit", lambda: (quit_display(), closed.set()))
        play_in_window(world, lambda window: None, tmp_path, load=lambda: closed.wait(5) and None)
    assert world.asked == []


def test_the_window_plays_what_is_played_without_one(tmp_path: Path) -> None:
    tape = [(FORWARD,) if number % 7 < 3 else (TURN,) if number % 5 else () for number in range(40)]
    config = GameConfig(seed=9, paced=False, record=tmp_path / "without")
    Game(lambda: ToyWorld(FAST), Tape(tape), NullScreen(), config).run()
    keyboard, world = Keyboard(), ToyWorld(FAST)
    config = GameConfig(seed=9, record=tmp_path / "with")
    Window(lambda mailbox: Game(lambda: world, Tape(tape), mailbox, config), keyboard, WindowConfig("Toy")).run()
    sessions = [Session(tmp_path / name) for name in ("with", "without")]
    assert sessions[0].tape() == sessions[1].tape() == tape
    assert sessions[0].digests() == sessions[1].digests()
    assert sessions[0].header == sessions[1].header


def test_a_stick_reaches_the_world_the_screen_and_the_recording_as_far_as_it_is_pushed(tmp_path: Path) -> None:
    card = msgspec.structs.replace(FAST, actions=(msgspec.structs.replace(FAST.actions[0], analogue=True), FAST.actions[1]))
    world, keyboard = ToyWorld(card), Keyboard()
    window = Window(
        lambda mailbox: Game(lambda: world, keyboard, mailbox, GameConfig(record=tmp_path / "session")), keyboard, WindowConfig("Toy", screenshots=tmp_path)
    )

    def push(value: int) -> None:
        pygame.event.post(pygame.Event(pygame.CONTROLLERAXISMOTION, instance_id=3, axis=1, value=value))

    def story() -> None:
        until(lambda: len(world.asked) > 2)
        push(-18000)
        until(lambda: bool(window._picture and window._picture.actions == {FORWARD: 0.5}))
        tap("f10")
        until(lambda: window._page is not None)
        push(-32768)
        seen = len(world.asked)
        until(lambda: len(world.asked) > seen + 3)
        push(0)
        until(lambda: world.asked[-1] == ())
        tap("escape")

    act_in(window, story)
    assert {FORWARD: 0.5} in world.asked and (FORWARD,) not in world.asked, "a page has the stick, as it has the keys"
    ticks = Session(tmp_path / "session").ticks()
    held = action_vectors(ticks, card.action_names)[:, 0]
    assert set(held.tolist()) == {0.0, 0.5} and [tick.actions for tick in ticks] == world.asked


def test_a_key_that_is_held_partly_is_lit_partly() -> None:
    pygame.font.init()
    columns = [pygame.surfarray.array3d(key_cap("left", share, 40))[8].astype(int) for share in (0, 0.25, 0.75, 1)]
    lit = [float((abs(column - theme.LIT) < 8).all(1).mean()) for column in columns]
    assert lit[0] == 0 and lit == sorted(lit) and lit[1] < 0.4 < lit[2] < lit[3]
