"""Other worlds: found, shown in the picker, loaded beside the game, entered without losing a key; and the real game beside a world."""

import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pygame
import pytest
from msgspec.structs import replace
from test_window import act_in, key, tap, until
from toy_world import CARD, FORWARD, LEFT, TURN, UP, ToyClock, ToyStream, ToyWorld

import main
from controls.keyboard import Keyboard
from controls.keys import CODES, Actions
from controls.layout import Layout
from controls.tape import Nobody, Tape
from game import beside_real, reaction, theme
from game import gate as gate_module
from game.beside_real import GameBesideReal, Pair, Played, check_real
from game.game import Game, GameConfig
from game.gate import Arrival, Gate
from game.key_menu import KeyMenu
from game.mailbox import Picture
from game.picker import Picker
from game.play import NullScreen
from game.shelf import Shelf
from game.window import Window, WindowConfig
from world_model.card import ActionSpec, read_card, read_screen
from world_model.psnr import psnr_db
from world_model.real.sources import SOURCES
from world_model.session import Session
from world_model.world import World

ARENA = replace(CARD, name="arena", title="Arena", width=40, height=20, fps=50.0, num_starts=2, rollback=1, window={"ladder": [1.0, 0.5]},
                actions=(ActionSpec("turn_left", ("a",), "Turn left"), ActionSpec("fire", ("up",), "Fire")))  # fmt: skip


class Screen(NullScreen):
    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[Picture] = []
        self.sentences: list[str] = []

    def show(self, picture: Picture) -> None:
        self.pictures.append(picture)

    def tell(self, sentence: str) -> None:
        self.sentences.append(sentence)


def swapping(at: dict[int, object], player: object, config: GameConfig, card: object = CARD) -> tuple[Game, ToyWorld, Screen]:
    """Play a toy world in which calls are made during ticks of the first world, given by their number."""

    def during_tick(number: int) -> None:
        if number in at:
            at[number]()  # type: ignore[operator]

    world, screen = ToyWorld(card, during_tick), Screen()  # type: ignore[arg-type]
    return Game(lambda: world, player, screen, config, ToyClock()), world, screen  # type: ignore[arg-type, return-value]


# The game


@pytest.mark.parametrize("keep", [False, True])
def test_a_swap_comes_between_two_ticks_and_loses_no_key(keep: bool) -> None:
    """Up walks here and fires there; it is held all along. Left is tapped in the tick before the swap, and nothing there."""
    keyboard, arena = Keyboard(), ToyWorld(ARENA)

    def swap() -> None:
        keyboard.press(UP, 0.0)
        game.swap(arena, keep_screen=keep)
        keyboard.press(CODES["a"], 0.0)
        keyboard.release(CODES["a"], 0.0)

    game, world, screen = swapping({3: swap}, keyboard, GameConfig(frames=6, seed=4, start=2, rollback=2))
    game.run()
    assert world.asked == [(), (), ()] and arena.asked == [("turn_left", "fire"), ("fire",), ("fire",)]
    seed, start = arena.streams[0]
    assert seed == 4 and (start.shape == (20, 40, 3) if keep else start == 0)  # type: ignore[attr-defined]
    assert not keep or (start == screen.pictures[3].frame[0, 0]).all(), "the screen of before, at the new size"
    assert [picture.frame.shape for picture in screen.pictures[3:5]] == [(24, 32, 3), (20, 40, 3)]
    assert game.card.title == "Arena" and len(game._history) == 4
    assert screen.sentences == ["--rollback is 2, but this world can be rolled back by 0 to 1 levels."] and game.rollback == 1


def test_a_recording_goes_on_in_the_new_world(tmp_path: Path) -> None:
    arena = ToyWorld(ARENA)
    at = {2: lambda: game.record(), 5: lambda: game.swap(arena, keep_screen=True)}
    game, _, _ = swapping(at, Nobody(), GameConfig(frames=9, own_folder=tmp_path))
    game.run()
    sessions = [Session(tmp_path / "recordings" / name) for name in ("toy", "arena")]
    assert [session.header["world"] for session in sessions] == ["toy", "arena"]
    assert [len(session.tape()) for session in sessions] == [3, 4] and "parent" not in sessions[1].header
    assert sessions[1].state, "it began from a picture, which no start of the world shows"


def test_a_world_that_takes_no_picture_is_refused_and_the_game_goes_on() -> None:
    class Words(ToyWorld):
        def stream(self, seed: int = 0, start: object = 0) -> ToyStream:
            raise ValueError("A text world begins from nothing.")

    game, world, screen = swapping({2: lambda: game.swap(Words(ARENA), keep_screen=True)}, Nobody(), GameConfig(frames=5))
    game.run()
    assert len(world.asked) == 5 and screen.sentences == ["A text world begins from nothing."] and game.card is CARD


def test_whatever_goes_wrong_on_the_way_in_the_game_goes_on_where_it_was() -> None:
    class Large(ToyWorld):
        def stream(self, seed: int = 0, start: int = 0) -> ToyStream:
            raise RuntimeError("out of memory\nand more")

    keyboard = Keyboard()
    game, world, screen = swapping({2: lambda: game.swap(Large(ARENA), keep_screen=False)}, keyboard, GameConfig(frames=4, start=2))
    keyboard.press(UP, 0.0)
    game.run()
    assert screen.sentences == ["out of memory"] and game.world is world and game.start == 2
    assert len(world.asked) == 4 and world.asked[-1] == (FORWARD,), "the keys mean what they did"


def test_rewinding_ends_at_the_swap(tmp_path: Path) -> None:
    arena = ToyWorld(ARENA)

    def swap() -> None:
        game.rewind(True)
        game.swap(arena, keep_screen=False)
        game.rewind(False)

    game, _, screen = swapping({4: swap}, Nobody(), GameConfig(frames=7))
    game.run()
    assert len(arena.asked) == 3 and not game.sign and not screen.sentences


def test_a_carried_session_is_bit_exact(tiny_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    game, _, _ = swapping({3: lambda: game.swap(tiny_world, keep_screen=True)}, Tape([()] * 3 + [("forward",)] * 3 + [("turn_left",)] * 2),
                          GameConfig(record=tmp_path / "walk"))  # fmt: skip
    game.run()
    assert main.main(["replay", str(tmp_path / "walk-2"), "--world", str(tiny_world.path), "--device", "cpu", "--verify"]) == 0
    assert "bit-exact: all 5 frames" in capsys.readouterr().out


# Shelf and gate


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's folder of worlds; nothing ships."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("world_model.card.SHIPPED", tmp_path / "none")
    worlds = tmp_path / "data" / "rolling-worlds" / "worlds"
    worlds.mkdir(parents=True)
    return worlds


def test_files_appear_change_and_go(folder: Path, tiny_world_path: Path) -> None:
    shelf = Shelf()
    shelf.look()
    assert shelf.entries == ()
    shutil.copy(tiny_world_path, folder / "b.safetensors")
    (folder / "a.safetensors").write_text("no world at all")
    shelf.add(tiny_world_path)
    shelf.look()
    broken, good, dropped = shelf.entries
    assert "not a world file" in broken.fault and broken.card is None
    assert good.card and good.card.name == "tiny" and good.picture is not None and good.picture.shape == (32, 32, 3)
    assert dropped.path == tiny_world_path.resolve()
    shelf.look()
    assert shelf.entries[1] is good, "what has not changed is not read again"
    with open(folder / "b.safetensors", "r+b") as file:
        file.truncate(good.stamp[1] - 100)
    (folder / "a.safetensors").unlink()
    shelf.look()
    assert [entry.path.stem for entry in shelf.entries] == ["b", "tiny"] and "not a readable world file" in shelf.entries[0].fault


def test_the_picture_of_a_world_is_its_first_start(tiny_world: World, tiny_world_path: Path) -> None:
    screen = read_screen(tiny_world_path, read_card(tiny_world_path))
    assert np.array_equal(screen, tiny_world.starts["screens"][0].numpy())


def arrive(gate: Gate) -> Arrival:
    found: list[Arrival] = []
    until(lambda: bool(found.append(arrival) if (arrival := gate.fetch()) else found))
    return found[0]


def test_the_gate_opens_worlds_and_says_what_is_wrong_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(number: int) -> None:
        raise MemoryError

    worlds = {
        "good": ToyWorld(ARENA), "heavy": ToyWorld(during_tick=stumble),
        "odd": ToyWorld(replace(CARD, actions=(ActionSpec("jump", ("any",), ""),))),
    }  # fmt: skip
    gate = Gate(Shelf(), lambda path: worlds[path.name])
    for name, words in (("heavy", "heavy cannot be entered: MemoryError."), ("odd", "is not the name of a key"), ("none", "cannot be entered: 'none'.")):
        gate.enter(tmp_path / name)
        arrival = arrive(gate)
        assert arrival.world is None and words in arrival.refusal and gate.inside is None and not gate.opening
    gate.enter(tmp_path / "good")
    assert arrive(gate) == Arrival(worlds["good"], False) and gate.fetch() is None and gate.inside is None, "the game may not have it"  # type: ignore[arg-type]
    assert gate.fetch(worlds["good"]) is None and gate.inside == tmp_path / "good"  # type: ignore[arg-type]
    assert worlds["good"].asked == [()], "it was tried before it is handed over"
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(gate_module, "free_bytes", lambda: 1 << 20)
    gate.enter(tmp_path / "large")
    assert "too large for the memory that is free: it needs some 2 MB of 1" in arrive(gate).refusal
    gate.close()


@pytest.mark.parametrize(("most", "free"), [("max", 2000 << 10), (str(5 << 20), 2000 << 10), (str(1 << 20), 700_000 + (1 << 20) - 900_000)])
def test_a_container_may_have_less_memory_than_its_machine(most: str, free: int, tmp_path: Path) -> None:
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    assert gate_module.free_bytes(tmp_path) is None
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  2000 kB\n")
    for name, text in (("max", most), ("current", "900000"), ("stat", "anon 5\ninactive_file 700000\n")):
        (group / f"memory.{name}").write_text(text + "\n")
    assert gate_module.free_bytes(tmp_path) == free


def test_of_two_worlds_the_later_one_counts(tmp_path: Path) -> None:
    going = threading.Event()
    gate = Gate(Shelf(), lambda path: (going.wait(5), ToyWorld(ARENA if path.name == "b" else CARD))[1])
    gate.enter(tmp_path / "a")
    gate.enter(tmp_path / "b")
    going.set()
    assert arrive(gate).world.card is ARENA and gate.fetch() is None  # type: ignore[union-attr]
    gate.close()


def test_a_watched_world_is_loaded_again_when_its_file_changes(folder: Path, tiny_world_path: Path) -> None:
    path = folder / "tiny.safetensors"
    shutil.copy(tiny_world_path, path)
    shelf, loaded = Shelf(), []
    gate = Gate(shelf, lambda path: (loaded.append(path), ToyWorld())[1], path, watch=True)
    for _ in range(2):
        shelf.look()
        assert gate.fetch() is None
    os.utime(path, ns=(1, 1))
    shelf.look()
    assert arrive(gate).keep_screen and loaded == [path.resolve()]
    shelf.look()
    assert gate.fetch() is None
    gate.close()


# Picker, menu and window


def test_the_picker_chooses_by_key_and_mouse(folder: Path, tiny_world_path: Path) -> None:
    pygame.font.init()
    for name in "abc":
        shutil.copy(tiny_world_path, folder / f"{name}.safetensors")
    shelf, asked = Shelf(), []
    shelf.look()
    gate = Gate(shelf, lambda path: ToyWorld(), folder / "a.safetensors")
    gate.enter = lambda path: asked.append(path.stem)  # type: ignore[assignment, method-assign]
    picker = Picker(gate)
    assert picker.press(CODES["down"]) and picker.press(CODES["pad_down"]) and not picker.press(CODES["return"])
    assert picker.press(CODES["left"]) and gate.keep_screen
    assert not picker.press(CODES["2"]) and picker.press(CODES["9"]) and not picker.press(CODES["escape"])
    picker.draw(np.zeros((8, 8, 3), np.uint8), 12)
    rect, path = picker._places[0]
    assert picker.point(rect.center, False) and picker.chosen == path and not picker.point(rect.center, True)
    assert picker.point((-5, -5), True)
    assert asked == ["c", "b", "a"]


def test_the_chosen_world_is_played_for_show_and_not_loaded_twice(folder: Path, tiny_world_path: Path) -> None:
    pygame.font.init()
    for name in "abc":
        shutil.copy(tiny_world_path, folder / f"{name}.safetensors")
    arena, loaded = ToyWorld(ARENA), []

    def load(path: Path) -> ToyWorld:
        loaded.append(path.stem)
        if path.stem == "b":
            raise MemoryError
        return arena

    shelf = Shelf()
    shelf.look()
    gate = Gate(shelf, load, folder / "a.safetensors")
    picker, screen = Picker(gate), np.zeros((24, 32, 3), np.uint8)
    picker.draw(screen, 12)
    picker.press(CODES["down"])
    picker.draw(screen, 12)
    until(lambda: loaded == ["b"])
    assert gate.preview.picture is None, "what cannot be loaded is shown by its first start"
    picker.press(CODES["down"])
    picker.draw(screen, 12)
    until(lambda: len(arena.asked) > 9)
    assert gate.preview.picture is not None and {("turn_left",), ("fire",)} <= set(arena.asked)
    before = pygame.surfarray.array3d(picker.draw(screen, 12))
    made = len(arena.asked)
    until(lambda: len(arena.asked) > made + 1)
    assert (pygame.surfarray.array3d(picker.draw(screen, 12)) != before).any(), "it is alive"
    assert not picker.press(CODES["return"])
    assert arrive(gate).world is arena and loaded == ["b", "c"]
    until(lambda: gate.preview.picture is None)
    made = len(arena.asked)
    threading.Event().wait(0.5)
    assert len(arena.asked) <= made + 1, "nobody looks"
    gate.close()


def test_how_long_a_swap_takes_is_measured_in_the_running_game() -> None:
    class Filed(ToyWorld):
        path = Path("toy.safetensors")

    def load() -> Filed:
        threading.Event().wait(0.2)
        return Filed(replace(CARD, fps=100.0))

    figures = reaction.measure_swap(load(), load, times=2)
    assert 0.2 <= figures["p50"] <= figures["max"] and figures["still_ms"] >= 9


@pytest.mark.parametrize("window", [(640, 480), (1024, 768), (3840, 2160)])
def test_pages_fit_in_the_window(window: tuple[int, int], folder: Path, tiny_world_path: Path) -> None:
    pygame.font.init()
    px = theme.unit(window)
    figures = {f"psnr_teacher_forced_{n}_{ahead}": 24.4 for n in "abcdefghijkl" for ahead in (1, 8, 32)}
    actions = tuple(ActionSpec(f"strafe_left_{n}", ("up", "w", "kp_enter"), "W" * 40) for n in range(20))
    card = replace(CARD, title="W" * 79 + "\0", figures=figures, actions=actions[:8])
    for n in range(12):
        (folder / f"{n}.safetensors").write_text("no world")
    shelf = Shelf()
    shelf.look()
    object.__setattr__(shelf.entries[3], "card", card)
    object.__setattr__(shelf.entries[3], "picture", np.zeros((96, 128, 3), np.uint8))
    for page in (Picker(Gate(shelf, lambda path: ToyWorld()), shelf.entries[3].path), KeyMenu(lambda: actions, Keyboard(), print)):
        picture = page.draw(None, px)
        assert picture.get_width() <= window[0] and picture.get_height() <= window[1]


def test_keys_and_buttons_are_chosen_in_the_menu_while_the_game_goes_on_and_kept(tmp_path: Path) -> None:
    world, path = ToyWorld(replace(CARD, fps=100.0)), tmp_path / "controls.json"
    keyboard = Keyboard(Layout(path))
    window = Window(lambda mailbox: Game(lambda: world, keyboard, mailbox), keyboard, WindowConfig("Toy", screenshots=tmp_path))

    def button(kind: int, number: int) -> None:
        pygame.event.post(pygame.Event(kind, instance_id=1, button=number))

    def keys() -> dict[str, tuple[str, ...]]:
        return {bound.name: bound.keys for bound in Layout(path).of(CARD.actions)} if path.exists() else {}

    def story() -> None:
        until(lambda: len(world.asked) > 3)
        tap("f10")
        for name in ("down", "return", "q"):
            tap(name)
        until(lambda: keys().get(TURN, ()) == ("q", "pad_left", "stick_left"))
        tap("equals")
        button(pygame.CONTROLLERBUTTONDOWN, 10)
        until(lambda: keys()[TURN] == ("q", "pad_left", "stick_left", "pad_r1"))
        button(pygame.CONTROLLERBUTTONUP, 10)
        for name in ("return", "escape", "escape"):  # changed his mind, and left
            tap(name)
        until(lambda: window._page is None)
        assert set(world.asked) == {()}, "what is pressed in the menu does not reach the world"
        key(pygame.KEYDOWN, CODES["q"])
        until(lambda: world.asked[-1] == (TURN,))
        key(pygame.KEYUP, CODES["q"])
        button(pygame.CONTROLLERBUTTONDOWN, 10)
        key(pygame.KEYDOWN, UP)
        until(lambda: world.asked[-1] == (FORWARD, TURN))
        tap("f10")
        tap("down")
        tap("backspace")
        until(lambda: keys()[TURN][0] == "left")

    act_in(window, story)


def test_the_window_swaps_worlds_while_a_key_is_held(folder: Path, tiny_world_path: Path) -> None:
    for name in "ab":
        shutil.copy(tiny_world_path, folder / f"{name}.safetensors")
    world, arena = ToyWorld(replace(CARD, fps=100.0)), ToyWorld(ARENA)
    slow = threading.Event()
    keyboard = Keyboard()
    gate = Gate(Shelf(), lambda path: (slow.wait(5), arena)[1], folder / "a.safetensors")
    window = Window(lambda mailbox: Game(lambda: world, keyboard, mailbox), keyboard, WindowConfig("Toy", screenshots=folder), gate=gate)

    def story() -> None:
        until(lambda: len(world.asked) > 3 and len(gate.shelf.entries) == 2)
        key(pygame.KEYDOWN, UP)
        until(lambda: (FORWARD,) in world.asked)
        tap("tab")
        until(lambda: isinstance(window._page, Picker))
        for name in ("left", "down", "return"):
            tap(name)
        until(lambda: bool(gate.opening) and window._page is None)
        seen = len(world.asked)
        until(lambda: len(world.asked) > seen + 3)
        assert set(world.asked[seen:]) == {(FORWARD,)}, "the old world plays on, and keys of the picker do not reach it"
        slow.set()
        until(lambda: len(arena.asked) > 3 and pygame.display.get_caption()[0] == "Arena")
        assert set(arena.asked[1:]) == {("fire",)} and isinstance(arena.streams[1][1], np.ndarray)
        key(pygame.KEYUP, UP)
        until(lambda: arena.asked[-1] == ())
        pygame.event.post(pygame.Event(pygame.DROPFILE, file=str(tiny_world_path)))
        until(lambda: isinstance(window._page, Picker) and window._page.chosen == tiny_world_path.resolve())
        tap("escape")
        tap("2")
        until(lambda: len(arena.streams) >= 4)

    act_in(window, story)


# Beside the real game


class ToyReal:
    """Counts its frames in green; an episode has four."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.number = 0

    def begin(self, seed: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
        self.begun.append(seed)
        self.number = 0
        return np.full((frames, 24, 32, 3), seed % 256, np.uint8), np.zeros((frames, 2), np.float32)

    def step(self, actions: Actions) -> np.ndarray | None:
        self.number += 1
        return None if self.number > 4 else np.full((24, 32, 3), 200 * (FORWARD in actions), np.uint8)


def test_the_real_game_gets_the_same_start_and_the_same_keys() -> None:
    class World(ToyWorld):
        def stream(self, seed: int = 0, start: object = 0, actions: object = None) -> ToyStream:
            assert isinstance(start, np.ndarray) and start.shape == (1, 24, 32, 3)
            return super().stream(seed, 0)

    world, real, screen = World(), ToyReal(), Screen()
    keyboard = Keyboard()
    game = GameBesideReal(lambda: Pair(world, real), Tape([(FORWARD,), (), (TURN,), (FORWARD,), (), ()], keyboard),  # type: ignore[arg-type]
                          screen, GameConfig(seed=1, start=2, frames=6), ToyClock())  # fmt: skip
    game.run()
    assert [picture.frame.shape for picture in screen.pictures] == [(28, 66, 3)] * 7
    assert [int(picture.frame[0, 0, 0]) for picture in screen.pictures] == [243, 200, 0, 0, 200, 244, 0], "1011, and 1012 for the second episode"
    assert real.begun == [1011, 1012] and world.asked == [(FORWARD,), (), (TURN,), (FORWARD,), ()]
    assert game.sign.endswith(" dB") and not {"rewind", "record", "save", "worlds"} & {command.name for command in game.commands}
    assert LEFT and game.recording is None


@pytest.mark.parametrize("name", ["maze", "arena", "racing"])
def test_every_shipped_world_has_its_real_game_beside_it(name: str) -> None:
    source = SOURCES[name]
    pytest.importorskip(source.needs)
    names = source.origin.action_names

    def vector(held: Actions) -> np.ndarray:
        return np.array([name in held for name in names], np.float32)

    check_real(source.origin)  # type: ignore[arg-type]
    real = Played(SimpleNamespace(card=source.origin, action_vector=vector))  # type: ignore[arg-type]
    frames, actions = real.begin(5, 4)
    again, _ = real.begin(5, 4)
    assert np.array_equal(frames, again) and actions.shape == (4, len(names))
    turned = [real.step((names[0],)) for _ in range(6)]
    real.begin(5, 4)
    stayed = [real.step(()) for _ in range(6)]
    assert turned[-1] is not None and stayed[-1] is not None and turned[-1].shape == frames.shape[1:]
    assert psnr_db(turned[-1], stayed[-1]) < 40, "it obeys"
    real.close()


def test_what_cannot_be_played_beside_the_real_game_is_said(monkeypatch: pytest.MonkeyPatch, tiny_world_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        ([str(tiny_world_path), "--beside-real"], "There is no real game to play beside Tiny"),
        (["maze", "--beside-real", "--record", "x"], "without --record"),
        (["maze", "--beside-real", "--watch"], "--watch needs a window of its own"),
    ):
        monkeypatch.setattr(beside_real.importlib.util, "find_spec", lambda name: object())
        assert main.main(["play", *arguments]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setattr(beside_real.importlib.util, "find_spec", lambda name: None)
    assert main.main(["play", "maze", "--beside-real"]) == 2
    assert "needs vizdoom; install it by pip install -e '.[make]'" in capsys.readouterr().err
