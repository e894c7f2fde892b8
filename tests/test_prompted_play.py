"""From a published checkpoint to a recorded game and back: converted, loaded, played with a change of prompt, recorded, replayed."""

import json
import threading
from pathlib import Path

import numpy as np
import pygame
import pytest
import torch
from msgspec.structs import replace
from toy_published import HEIGHT, PARTS, WIDTH, toy_world_file
from toy_world import CARD, ToyClock, ToyStream, ToyWorld

import main
from controls.keyboard import Keyboard
from controls.tape import Nobody
from game.game import NO_SLOTS, Game, GameConfig
from game.mailbox import Picture
from game.play import NullScreen
from game.prompt_line import PromptLine
from game.window import Window, WindowConfig
from world_model.prompts import Prompt, PromptError, prompt_line, read_prompts
from world_model.session import Session, frame_digest
from world_model.wan.parts import Parts
from world_model.world import World


@pytest.fixture
def rf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A converted toy, whose text encoder and video autoencoder are toys as well."""
    monkeypatch.setattr("world_model.wan.text_world.load_parts", lambda *where, **how: PARTS)
    return toy_world_file(tmp_path)


# The whole way, without a window


def test_played_recorded_and_replayed(rf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, walk, again = tmp_path / "prompts.jsonl", tmp_path / "walk", tmp_path / "again"
    prompts.write_text(prompt_line(10, "It begins to rain.") + prompt_line(33, "Night falls."))
    asked = ["play", str(rf), "--headless", "--frames", "50", "--seed", "7", "--dtype", "float32", "--device", "cpu"]
    assert main.main([*asked, "--prompt", "A train in the snow.", "--prompts", str(prompts), "--record", str(walk)]) == 0
    session = Session(walk)
    said = read_prompts(walk / "prompts.jsonl")
    assert said == [Prompt(0, "A train in the snow."), Prompt(21, "It begins to rain."), Prompt(33, "Night falls.")]
    assert len(session.digests()) == len(session.tape()) == len(list(session.frames())) == 9 + 4 * 12
    assert {n: tick.rollback for n, tick in enumerate(session.ticks()) if tick.rollback} == {21: 4, 33: 4}
    assert main.main([*asked, "--prompts", str(walk / "prompts.jsonl"), "--record", str(again)]) == 0
    assert Session(again).digests() == session.digests()
    assert read_prompts(again / "prompts.jsonl") == said
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"last frame {session.digests()[-1]}")
    assert main.main([*asked, "--prompt", "A train in the snow.", "--record", str(tmp_path / "calm")]) == 0
    calm = Session(tmp_path / "calm").digests()
    assert calm[:21] == session.digests()[:21] and calm[21:] != session.digests()[21:]


def test_a_session_tells_every_tick_again(rf: Path, tmp_path: Path) -> None:
    """Rollback and prompt of each tick, as recorded, make the same frames from Python, whatever the card's rollback is."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(prompt_line(0, "a cat") + prompt_line(21, "a dog"))
    asked = ["play", str(rf), "--headless", "--frames", "45", "--dtype", "float32", "--rollback", "2"]
    assert main.main([*asked, "--prompts", str(prompts), "--record", str(tmp_path / "walk")]) == 0
    session, said = Session(tmp_path / "walk"), read_prompts(tmp_path / "walk" / "prompts.jsonl")
    stream, ticks, frames = World.load(rf, "cpu", torch.float32).stream(seed=0), session.ticks(), []
    while len(frames) < len(ticks):
        stream.prompt = [p.prompt for p in said if p.frame <= len(frames)][-1]
        frames.extend(stream.tick(ticks[len(frames)].actions, rollback=ticks[len(frames)].rollback))
    assert [frame.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * 45
    assert [frame_digest(frame) for frame in frames] == session.digests()


def test_the_command_line_replays_words(rf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The session remembers the numbers that its frames were computed in; the replay takes the same."""
    walk = tmp_path / "walk"
    (tmp_path / "prompts.jsonl").write_text(prompt_line(0, "a cat") + prompt_line(21, "a dog"))
    asked = ["play", str(rf), "--headless", "--frames", "40", "--seed", "3", "--dtype", "float32", "--device", "cpu", "--rollback", "2"]
    assert main.main([*asked, "--prompts", str(tmp_path / "prompts.jsonl"), "--record", str(walk)]) == 0
    capsys.readouterr()
    assert main.main(["replay", str(walk), "--world", str(rf), "--device", "cpu", "--verify"]) == 0
    assert "is bit-exact: all 45 frames" in capsys.readouterr().out
    assert main.main(["replay", str(walk), "--world", "maze", "--verify"]) == 2
    assert "obeys keys, but the session" in capsys.readouterr().err


def test_worlds_of_keys_refuse_words_and_worlds_of_words_keys(rf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["play", str(rf), "--headless", "--actions", "tape.jsonl"]) == 2
    assert capsys.readouterr().err == "Rolling Forcing obeys words and not keys, and has no use for --actions.\n"
    for option in (["--prompt", "x"], ["--prompts", "x.jsonl"], ["--parts", "x"], ["--offload"]):
        assert main.main(["play", "maze", "--headless", "--frames", "1", *option]) == 2
        assert capsys.readouterr().err == f"Doom maze obeys keys and not words, and has no use for {option[0]}.\n"


def test_a_world_that_is_entered_again_takes_the_parts_that_were_given(rf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load_parts(source: str, *where: object, **how: object) -> Parts:
        asked.append(source)
        return PARTS

    def run(window: Window) -> None:
        assert window._gate is not None
        window._gate.enter(rf)
        while not asked:
            threading.Event().wait(0.01)
        window._gate.close()

    monkeypatch.setattr("world_model.wan.text_world.load_parts", load_parts)
    monkeypatch.setattr(Window, "run", run)
    assert main.main(["play", str(rf), "--parts", "mine"]) == 0
    assert asked == ["mine"]


def test_what_is_measured_with_keys_refuses_a_world_of_words(rf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("bench", "response"):
        assert main.main([command, *(["--world"] if command == "bench" else []), str(rf), "--device", "cpu"]) == 2
        assert "obeys no keys" in capsys.readouterr().err


def test_prompts_that_cannot_be_read_are_refused(rf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.jsonl"
    bad = {
        "x\n": "line 1 is not a timed prompt", '{"frame": -1, "prompt": ""}\n': "line 1 is not", '{"frame": 3}\n': "line 1 is not",
        prompt_line(3, "a") + prompt_line(2, "b"): "line 2 goes back to frame 2", json.dumps({"frame": 0, "prompt": "x" * 5000}) + "\n": "line 1 is not",
        "x" * (1 << 16): "line 1 is not",
    }  # fmt: skip
    for text, words in bad.items():
        path.write_text(text)
        assert main.main(["play", str(rf), "--headless", "--frames", "1", "--prompts", str(path)]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    with pytest.raises(PromptError, match="Cannot read the prompts"):
        read_prompts(tmp_path / "none.jsonl")
    path.write_text(prompt_line(0, "whole") + '{"frame": 3, "pro')
    assert read_prompts(path) == [Prompt(0, "whole")]


# The loop and the window, with a world of blocks that costs nothing


class ReelWorld(ToyWorld):
    """Makes 9 frames in the first tick, then 12; a frame's red counts the frames."""

    def __init__(self) -> None:
        super().__init__(replace(CARD, parts="toy/parts", actions=()))
        self.heard: list[str] = []

    def stream(self, seed: int = 0, start: int = 0) -> "ReelStream":
        return ReelStream(self, seed)


class ReelStream(ToyStream):
    prompt = ""
    made = 0

    def tick(self, action: object, *, rollback: int) -> np.ndarray:
        self.world.heard.append(self.prompt)  # type: ignore[attr-defined]
        frame = super().tick((), rollback=rollback)
        numbers = range(self.made, self.made + (12 if self.made else 9))
        self.made = numbers.stop
        return np.stack([np.full_like(frame, number % 256) for number in numbers])


def test_blocks_are_made_at_the_pace_at_which_their_frames_are_shown() -> None:
    world, clock = ReelWorld(), ToyClock()
    pictures: list[tuple[float, Picture]] = []

    class Screen(NullScreen):
        def show(self, picture: Picture) -> None:
            pictures.append((clock.now_s(), picture))

    Game(lambda: world, Nobody(), Screen(), GameConfig(frames=45, prompts=(Prompt(0, "a"), Prompt(20, "b"))), clock).run()
    assert [round(time_s * CARD.fps) for time_s, _ in pictures] == [0, 0, 9, 21, 33]
    assert [picture.number for _, picture in pictures] == [0, 9, 21, 33, 45]
    assert all(np.array_equal(picture.frame, picture.reel[-1]) for _, picture in pictures[1:] if picture.reel is not None)
    assert pictures[-1][1].speed.fps == pytest.approx(CARD.fps) and pictures[-1][1].speed.late_share == 0
    assert world.heard == ["a", "a", "b", "b"]


def test_the_window_shows_every_frame_of_a_block_and_takes_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, shown = ReelWorld(), []
    draw = Window._draw

    def drawn(self: Window) -> None:
        draw(self)
        if self._picture and self._picture.reel is not None and shown[-1:] != [int(self._picture.frame[0, 0, 0])]:
            shown.append(int(self._picture.frame[0, 0, 0]))

    monkeypatch.setattr(Window, "_draw", drawn)
    window = Window(lambda mailbox: Game(lambda: world, Keyboard(), mailbox, GameConfig(frames=45)), Keyboard(), WindowConfig("Toy", screenshots=tmp_path))

    def act() -> None:
        while not world.heard:
            threading.Event().wait(0.002)
        for scancode, code in ((40, pygame.K_RETURN), (4, pygame.K_a)):
            pygame.event.post(pygame.Event(pygame.KEYDOWN, scancode=scancode, key=code, mod=0))
        pygame.event.post(pygame.Event(pygame.TEXTINPUT, text="a dog"))
        pygame.event.post(pygame.Event(pygame.KEYDOWN, scancode=40, key=pygame.K_RETURN, mod=0))

    person = threading.Thread(target=act)
    person.start()
    window.run()
    person.join()
    assert world.heard[0] == "" and world.heard[-1] == "a dog"
    assert shown == sorted(shown) and shown[-1] == 44 and len(shown) > 25, "in order, to the last; a busy machine may drop some"


def test_a_world_of_words_keeps_no_states_and_says_so(tmp_path: Path) -> None:
    """Its states take gigabytes: it is recorded from its start, and neither rewound nor saved."""

    def during_tick(number: int) -> None:
        if number == 2 and not told:
            game.rewind(True)
            for ask in (game.save, game.clip, game.record, game.record):
                ask()

    told: list[str] = []
    world = ReelWorld()
    world.during_tick = during_tick
    screen = NullScreen()
    screen.tell = told.append  # type: ignore[method-assign]
    game = Game(lambda: world, Nobody(), screen, GameConfig(frames=45, paced=False, own_folder=tmp_path), ToyClock())
    game.run()
    assert sum(sentence.startswith("In a published world") for sentence in told) == 2 and len(told) == 5
    assert told.count(NO_SLOTS) == 2, "of the rewind and of the slot"
    assert len(Session(tmp_path / "recordings" / "toy-clip").tape()) == 21 and not game.sign


def test_typing_a_prompt() -> None:
    pygame.display.init()
    line = PromptLine()

    def typed(text: str = "", key: int = 0) -> str | None:
        return line.handle(pygame.Event(pygame.TEXTINPUT, text=text) if text else pygame.Event(pygame.KEYDOWN, key=key))

    line.open()
    assert [typed("a cat"), typed(key=pygame.K_BACKSPACE), typed(key=pygame.K_c), typed("r "), typed(key=pygame.K_RETURN)] == [None] * 4 + ["a car"]
    assert line.typed is None
    for ending, text in ((pygame.K_ESCAPE, "a cat"), (pygame.K_RETURN, " ")):
        line.open()
        assert typed(text) is None and typed(key=ending) is None and line.typed is None
    pygame.display.quit()
