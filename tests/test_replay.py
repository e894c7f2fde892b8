"""Replays: what was recorded comes out again bit for bit, can be shown, rendered and taken over, and what is wrong with it is said in one sentence."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pygame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_main import refused
from test_recording import Person
from test_window import key, tap, until
from tiny import make_world

import main
from game.game import Game
from game.mailbox import Picture
from game.projector import Projector
from game.reel import Film, Reel, Rerun, side_by_side
from game.render import render_gif, render_video
from game.verify import verify
from game.window import Window
from world_model.psnr import psnr_db
from world_model.session import Session, SessionError, SessionWriter, frame_digest
from world_model.world import World

ACTIONS = [(), ("forward",), ("turn_left",), ("forward", "turn_right")]


def tape(ticks: int, seed: int = 0) -> list[tuple[str, ...]]:
    return [ACTIONS[a] for a in np.random.default_rng(seed).integers(0, len(ACTIONS), ticks)]


@pytest.fixture(scope="module")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    make_world(seed=1).save(path)
    return path


@pytest.fixture(scope="module")
def recorded(tiny_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions of 40 frames: ``walk`` begins at a start, ``walk-2`` branches off its frame 36."""
    folder = tmp_path_factory.mktemp("recorded")
    person = Person({}, tape(40))
    person.acts = {40: person.rewind(4)}
    person.play(tiny_world, folder, 80, record=folder / "walk", seed=7, start=1, rollback=3)
    return folder


@pytest.fixture
def walk(recorded: Path, tmp_path: Path) -> Path:
    """A copy of a session, to be spoilt."""
    return Path(shutil.copytree(recorded / "walk", tmp_path / "walk"))


def again(world: World, directory: Path) -> Rerun:
    session = Session(directory)
    return Rerun(world, session, session.ticks())


def change(directory: Path, **facts: Any) -> None:
    header = json.loads((directory / "header.json").read_text())
    (directory / "header.json").write_text(json.dumps({**header, **facts}))


# Bit for bit


@settings(max_examples=8)
@given(data=st.data())
def test_whatever_is_recorded_comes_out_again(tiny_world: World, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Random tapes under random rollbacks, with recordings begun and ended, rewinds, clips, restarts and slots at random moments."""
    folder = tmp_path_factory.mktemp("any")
    person = Person({}, data.draw(st.lists(st.sampled_from(ACTIONS), min_size=4, max_size=20)))
    choices: list[Callable[[Game], None]] = [
        Game.record, Game.clip, Game.restart, Game.save, Game.load, Game.cycle_rollback, person.rewind(data.draw(st.integers(1, 12))),
    ]  # fmt: skip
    person.acts = data.draw(st.dictionaries(st.integers(1, 16), st.sampled_from(choices), max_size=6))
    record = {"record": folder / "recordings" / "tiny"} if data.draw(st.booleans()) else {}
    person.play(tiny_world, folder, 16, seed=data.draw(st.integers(0, 2**64 - 1)), rollback=data.draw(st.integers(0, 3)), **record)
    assert not any("annot" in sentence or "stopped" in sentence for sentence in person.told)
    for directory in folder.glob("recordings/*"):
        session = Session(directory)
        assert len(session.ticks()) == len(session.digests()) == len(list(session.frames()))
        assert "is bit-exact" in verify(session, again(tiny_world, directory))


def test_a_branch_goes_on_where_its_parent_was(tiny_world: World, recorded: Path) -> None:
    parent, branch = Session(recorded / "walk"), Session(recorded / "walk-2")
    assert branch.facts.parent and branch.facts.parent.frame == 36 and branch.facts.parent.digest == parent.digests()[35]
    rerun = again(tiny_world, recorded / "walk")
    rerun.frame(36)
    frames = [rerun.stream.tick(tick.actions, rollback=tick.rollback) for tick in branch.ticks()]
    assert [frame_digest(frame) for frame in frames] == branch.digests()


def test_any_frame_can_be_made_again_from_any_other(tiny_world: World, recorded: Path) -> None:
    rerun, digests = again(tiny_world, recorded / "walk"), Session(recorded / "walk").digests()
    for number in (30, 7, 8, 40, 1, 30, 29):
        assert frame_digest(rerun.frame(number)) == digests[number - 1] and rerun.number == number


def ticks_to(rerun: Rerun, number: int) -> int:
    """Go to a frame and return how many ticks that took."""
    before = rerun.stream.frame
    numbers = list(rerun.approach(number))
    assert rerun.number == number and rerun.stream.frame - before in (len(numbers), number - before)
    return len(numbers)


def test_what_was_just_made_again_is_there_at_once(tiny_world: World, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer watches a few seconds behind the thread that makes the frames again, and plays on without waiting."""
    monkeypatch.setattr("game.reel.KEPT_STATES", 1)
    rerun, digests = again(tiny_world, recorded / "walk"), Session(recorded / "walk").digests()
    assert ticks_to(rerun, 38) == 38
    for number, ticks in ((20, 0), (19, 0), (23, 4)):
        assert ticks_to(rerun, number) == ticks and frame_digest(rerun.screen) == digests[number - 1]


@pytest.fixture
def with_states(tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A session of 40 frames that keeps its state after every tenth."""
    monkeypatch.setattr("game.recorder.STATE_S", 10 / 17.5)
    monkeypatch.setattr("game.reel.KEPT_STATES", 1)
    Person({}, tape(40)).play(tiny_world, tmp_path, 40, record=tmp_path / "kept", seed=7, rollback=3)
    return tmp_path / "kept"


def test_recorded_states_lead_there_sooner(tiny_world: World, other_path: Path, with_states: Path) -> None:
    session = Session(with_states)
    digests, ticks = session.digests(), session.ticks()
    assert sorted(session.states_between()) == [10, 20, 30, 40]
    rerun = Rerun(tiny_world, session, ticks, recorded_states=True)
    for number, made in ((25, 5), (40, 0), (13, 3), (3, 3)):
        assert ticks_to(rerun, number) == made and frame_digest(rerun.screen) == digests[number - 1]
    (with_states / "states" / "30.safetensors").write_bytes(b"no state")
    assert ticks_to(Rerun(tiny_world, session, ticks, recorded_states=True), 35) == 35, "then from the beginning"
    other = World.load(other_path, "cpu")
    assert ticks_to(Rerun(other, session, ticks, recorded_states=True), 15) == 15, "states of another world are no use"


def test_verifying_trusts_no_recorded_state(tiny_world: World, with_states: Path) -> None:
    shutil.copy(with_states / "states" / "10.safetensors", with_states / "states" / "20.safetensors")
    made, rerun = [], again(tiny_world, with_states)
    tick = rerun.stream.tick
    rerun.stream.tick = lambda *held, **how: made.append(1) or tick(*held, **how)  # type: ignore[method-assign, func-returns-value]
    assert "all 40 frames" in verify(Session(with_states), rerun) and len(made) == 40


def test_blocks_of_several_frames_come_out_again(tmp_path: Path) -> None:
    world = make_world(block_frames=2)
    world.save(tmp_path / "pairs.safetensors")
    person = Person({}, tape(20))
    person.acts = {9: person.rewind(2)}
    person.play(world, tmp_path, 28, record=tmp_path / "walk", rollback=2)
    directories = sorted(tmp_path.glob("walk*"))
    assert [len(Session(directory).ticks()) for directory in directories] == [18, 10]
    assert Session(directories[1]).facts.parent.frame == 14  # type: ignore[union-attr]
    for directory in directories:
        assert "is bit-exact" in verify(Session(directory), again(world, directory))
        rerun = again(world, directory)
        assert [frame_digest(rerun.frame(number)) for number in (7, 2, 3)] == [Session(directory).digests()[number - 1] for number in (7, 2, 3)]


def test_any_frame_of_the_video_can_be_shown(recorded: Path) -> None:
    film, frames = Film(Session(recorded / "walk")), list(Session(recorded / "walk").frames())
    assert len(film) == 40
    for number in (1, 2, 3, 40, 20, 21, 1, 19, 18):
        assert np.array_equal(film.frame(number), frames[number - 1])


# The command line


def replay(path: Path, world: Path, *options: str) -> int:
    return main.main(["replay", str(path), "--world", str(world), "--device", "cpu", *options])


def test_verify_says_which_of_the_two_held(recorded: Path, tiny_world_path: Path, other_path: Path, walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loaded by the command line the world computes in the machine's own dtype, so the recording is made there, too."""
    here = walk.with_name("here")
    (walk.with_name("tape.jsonl")).write_text("\n".join(json.dumps(actions) for actions in tape(12)))
    play = ["play", str(tiny_world_path), "--headless", "--device", "cpu", "--actions", str(walk.with_name("tape.jsonl")), "--record", str(here)]
    assert main.main(play) == 0
    capsys.readouterr()
    assert replay(here, tiny_world_path, "--verify") == 0
    assert capsys.readouterr().out == f"The session {here} is bit-exact: all 12 frames have the digests they were recorded with.\n"
    lines = (here / "tape.jsonl").read_text().splitlines()
    lines[7] = '["turn_left", "turn_right", "forward"]'
    (here / "tape.jsonl").write_text("\n".join(lines) + "\n")
    assert replay(here, tiny_world_path, "--verify") == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"The session {here} is not bit-exact here: frame 8 of 12 is the first that differs, PSNR against the recorded video at worst ")
    assert said.out.splitlines()[0].startswith("frame 8: ") and said.out.splitlines()[0].endswith(" dB") and len(said.out.splitlines()) == 5
    assert replay(here, other_path, "--verify") == 1
    assert "(this is not the world it was recorded in): frame 1 of 12" in capsys.readouterr().err
    change(here, machine={"system": "another"}, device="cuda:0")
    assert replay(here, tiny_world_path, "--verify") == 1
    assert "recorded with other machine and device): frame 8" in capsys.readouterr().err
    (here / "tape.jsonl").write_text("\n".join(lines[:7]) + "\n")
    assert replay(here, tiny_world_path, "--verify") == 2
    assert "has 7 frames on its tape but 12 digests; what both have is bit-exact" in capsys.readouterr().err


def test_replays_are_rendered(recorded: Path, tiny_world_path: Path, other_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, shape in (((), (512, 512)), (("--split",), (36 * 8, 66 * 8))):
        out, gif = tmp_path / f"{len(options)}.mp4", tmp_path / f"{len(options)}.gif"
        world = tiny_world_path if options else other_path
        assert replay(recorded / "walk-2", world, "--video", str(out), "--gif", str(gif), *options) == 0
        with av.open(str(out)) as container:
            assert [(frame.height, frame.width) for frame in container.decode(video=0)] == [shape] * 40
        with Image.open(gif) as picture:
            assert getattr(picture, "n_frames", 1) > 30
        assert "exists" in refused(capsys, "replay", str(recorded / "walk"), "--video", str(out))
    assert "Cannot write" in refused(capsys, "replay", str(recorded / "walk"), "--gif", str(tmp_path / "none" / "x.gif"))


def test_rendering_overwrites_nothing_and_leaves_nothing_half_made(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reel = Reel(Film(Session(recorded / "walk")), None)
    precious = [tmp_path / name for name in ("out.mp4.part", "out.gif.part")]
    for path in precious:
        path.write_text("precious")
    (tmp_path / "link.mp4").symlink_to("nowhere")
    with pytest.raises(SessionError, match="exists"):
        render_video(reel, 10, tmp_path / "link.mp4")
    for out, render in ((tmp_path / "out.mp4", render_video), (tmp_path / "out.gif", render_gif)):
        render(reel, 10, out)
        whole = out.read_bytes()
        with pytest.raises(SessionError, match="nothing is overwritten"):
            render(reel, 10, out)
        assert out.read_bytes() == whole and len(whole) > 1000
        out.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(Reel, "frame", lambda self, number: np.zeros((32 // (number % 20 != 0), 32, 3), np.uint8))
            with pytest.raises(ZeroDivisionError):
                render(reel, 10, out)
    assert sorted(tmp_path.iterdir()) == sorted([*precious, tmp_path / "link.mp4"])
    assert all(path.read_text() == "precious" for path in precious)


def test_a_tape_that_was_cut_is_shown_as_far_as_it_goes(walk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (walk / "tape.jsonl").read_text().splitlines(keepends=True)
    for kept, said in ((39, ""), (20, f"The tape of {walk} is cut: it ends after 20 of 40 frames.\n")):
        (walk / "tape.jsonl").write_text("".join(lines[:kept]) + '["forw')
        assert main.main(["replay", str(walk), "--video", str(tmp_path / f"{kept}.mp4")]) == (2 if said else 0)
        assert capsys.readouterr().err == said
        with av.open(str(tmp_path / f"{kept}.mp4")) as container:
            assert len(list(container.decode(video=0))) == kept


def test_the_meter_fills_as_two_pictures_diverge() -> None:
    left = np.full((8, 10, 3), 100, np.uint8)
    lit = []
    for difference in (0, 1, 20, 100):
        whole = side_by_side(left, left + np.uint8(difference), psnr_db(left, left + np.uint8(difference)))
        lit.append(int((whole[-1, :, 0] == 255).sum()))
    assert lit[0] == lit[1] == 0 < lit[2] < lit[3] == 22


def test_another_world_begins_with_the_picture_of_the_state(recorded: Path, other_path: Path) -> None:
    other = World.load(other_path, "cpu")
    session = Session(recorded / "walk-2")
    rerun = Rerun(other, session, session.ticks())
    parent = Rerun(World.load(other_path, "cpu"), Session(recorded / "walk"), Session(recorded / "walk").ticks())
    assert frame_digest(rerun.stream.screen) == session.facts.parent.digest  # type: ignore[union-attr]
    reel = Reel(Film(session), rerun)
    assert reel.frame(40).shape == (36, 66, 3) and reel.psnr_db is not None and reel.psnr_db < 40
    assert parent.frame(3).shape == (32, 32, 3)


# What is wrong with a session


def header_of(directory: Path, size: int) -> None:
    with open(directory / "header.json", "wb") as file:
        file.truncate(size)


def link(directory: Path, name: str) -> None:
    (directory / name).unlink()
    (directory / name).symlink_to("/etc/hostname")


def playlist(directory: Path) -> None:
    """Make the video a text that names another file, which lies elsewhere."""
    (directory / "video.mp4").rename(directory.with_name("elsewhere.mp4"))
    (directory / "other.mp4").symlink_to(directory.with_name("elsewhere.mp4"))
    (directory / "video.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a header of 1 GB": (lambda d: header_of(d, 1 << 30), "larger than 1048576 bytes"),
    "no header": (lambda d: (d / "header.json").unlink(), "has no header.json"),
    "an empty header": (lambda d: header_of(d, 0), "cannot be read"),
    "a deep header": (lambda d: (d / "header.json").write_text("[" * 100_000), "cannot be read"),
    "another format": (lambda d: change(d, format=2), "not a session header of format 1"),
    "a world with a path": (lambda d: change(d, world="../../etc/passwd"), "$.world"),
    "a hash that is none": (lambda d: change(d, world_sha256="abc"), "$.world_sha256"),
    "a negative seed": (lambda d: change(d, seed=-1), "$.seed"),
    "no fps": (lambda d: change(d, fps=0), "$.fps"),
    "a parent with a path of a gigabyte": (lambda d: change(d, parent={"session": "x" * 1000, "frame": 0, "digest": "0" * 32}), "$.parent.session"),
    "a video without a tape": (lambda d: (d / "tape.jsonl").unlink(), "has no tape.jsonl, only a video"),
    "a tape that leads elsewhere": (lambda d: link(d, "tape.jsonl"), "leads out of its folder"),
    "a video that leads elsewhere": (lambda d: link(d, "video.mp4"), "leads out of its folder"),
    "an empty tape": (lambda d: (d / "tape.jsonl").write_text(""), "holds no frame"),
    "a tape of something else": (lambda d: (d / "tape.jsonl").write_text("\x00\x01\n"), "line 1 is not"),
    "a rollback of a thousand": (lambda d: (d / "tape.jsonl").write_text('{"actions":[],"rollback":1000}\n'), "line 1 is not"),
    "a time that is none": (lambda d: (d / "tape.jsonl").write_text('{"actions":[],"flip_s":NaN}\n'), "line 1 is not"),
    "no video": (lambda d: (d / "video.mp4").unlink(), "has no video.mp4"),
    "a video of something else": (lambda d: (d / "video.mp4").write_bytes(b"video" * 1000), "cannot be read"),
    "a video that is a list of others": (lambda d: playlist(d), "cannot be read"),
    "a tape that is no file": (lambda d: ((d / "tape.jsonl").unlink(), os.mkfifo(d / "tape.jsonl")), "has no tape.jsonl, only a video"),
    "a header that is no file": (lambda d: ((d / "header.json").unlink(), (d / "header.json").mkdir()), "has no header.json"),
    "a video of another size": (lambda d: change(d, width=64), "frames of 32 x 32, its header says otherwise"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_session_is_said_in_one_sentence(name: str, walk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, words = WRONG[name]
    spoil(walk)
    assert words in refused(capsys, "replay", str(walk), "--video", str(tmp_path / "out.mp4"))
    assert not list(tmp_path.glob("out*")), "nothing half-made is left"


WRONG_AGAIN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a tape that was cut": (lambda d: (d / "tape.jsonl").write_bytes((d / "tape.jsonl").read_bytes()[:400]), "frames on its tape but 40 digests"),
    "another seed": (lambda d: change(d, seed=8), "frame 1 of 40 is the first that differs"),
    "a start that is not there": (lambda d: change(d, start=1000), "has the starts 0 to 2"),
    "a digest that was changed": (lambda d: (d / "digests.txt").write_text("0" * 32 + "\n"), "frame 1 of 40 is the first"),
    "a digest that is none": (lambda d: (d / "digests.txt").write_text("x\n"), "line 1 is not a digest"),
    "no digests": (lambda d: (d / "digests.txt").unlink(), "has no digests.txt"),
    "no state": (lambda d: change(d, state=True), "has no state.safetensors"),
    "a state that is none": (lambda d: (change(d, state=True), (d / "state.safetensors").write_bytes(b"pickle")), "is not a readable state"),
    "a state that leads elsewhere": (lambda d: (change(d, state=True), (d / "state.safetensors").symlink_to("/etc/hostname")), "leads out of its folder"),
    "actions of another world": (lambda d: (change(d, actions=["fly"]), (d / "tape.jsonl").write_text('["fly"]\n')), "has no action 'fly'"),
}


@pytest.mark.parametrize("name", WRONG_AGAIN)
def test_what_is_wrong_is_found_when_frames_are_made_again(name: str, walk: Path, tiny_world: World) -> None:
    spoil, words = WRONG_AGAIN[name]
    spoil(walk)
    with pytest.raises(ValueError, match=words) as caught:
        verify(Session(walk), again(tiny_world, walk))
    assert str(caught.value).endswith(".")


def test_the_world_of_a_session_must_be_there(walk: Path, monkeypatch: pytest.MonkeyPatch, tiny_world_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(walk.parent))
    assert "There is no world named 'tiny'" in refused(capsys, "replay", str(walk), "--verify")
    worlds = walk.parent / "rolling-worlds" / "worlds"
    worlds.mkdir(parents=True)
    shutil.copy(tiny_world_path, worlds / "tiny.safetensors")
    change(walk, world_sha256="0" * 64)
    assert "was recorded in the world tiny with SHA-256 000000000000..., but" in refused(capsys, "replay", str(walk), "--verify")
    change(walk, world=None)
    assert "does not name the world" in refused(capsys, "replay", str(walk), "--verify")


def test_a_session_without_digests_can_still_be_shown(tmp_path: Path) -> None:
    with SessionWriter(tmp_path / "new", {"fps": 10.0, "width": 16, "height": 16, "actions": []}) as writer:
        writer.append(np.zeros((16, 16, 3), np.uint8), [])
    (tmp_path / "new" / "digests.txt").unlink()
    assert len(Film(Session(tmp_path / "new"))) == 1
    (tmp_path / "new" / "video.mp4").write_bytes(b"")
    with pytest.raises(SessionError, match=r"cannot be read: .*\."):
        Film(Session(tmp_path / "new"))


# In the window


def show_in_window(arguments: list[str], story: Callable[[Window], None], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a replay as the command line does, while `story` acts beside it as a person would."""
    windows: list[Window] = []
    begin, failures = Window.__init__, []

    def remember(self: Window, *arguments: Any, **how: Any) -> None:
        begin(self, *arguments, **how)
        windows.append(self)

    def act() -> None:
        try:
            until(lambda: bool(windows) and windows[0]._picture is not None)
            story(windows[0])
        except BaseException as error:
            failures.append(error)
        if windows and windows[0]._open:
            pygame.event.post(pygame.Event(pygame.QUIT))

    monkeypatch.setattr(Window, "__init__", remember)
    person = threading.Thread(target=act)
    person.start()
    code = main.main(["replay", *arguments])
    person.join()
    if failures:
        raise failures[0]
    return code


def test_pause_step_seek_and_speed_by_key(recorded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def number(window: Window) -> int:
        return window._picture.number if window._picture else 0

    def story(window: Window) -> None:
        until(lambda: number(window) > 2)
        tap("space")
        until(lambda: window._game.paused)
        for name, expected in (("home", 1), ("period", 2), ("period", 3), ("comma", 2), ("right", 37), ("left", 2), ("left", 1), ("end", 40)):
            tap(name)
            until(lambda expected=expected: number(window) == expected)
        assert window._game.sign == "Paused"
        for name in ("up", "up", "up", "up", "home"):
            tap(name)
        tap("space")
        until(lambda: window._game.sign == "The end")
        assert window._game.timeline.speed == 8
        for _ in range(9):
            tap("down")
        until(lambda: window._game.timeline.speed == 0.25)
        tap("f1")
        until(lambda: window._help)
        key(pygame.KEYDOWN, 42)  # Backspace rewinds nothing here
        tap("return")
        until(lambda: "There is no world named 'tiny'" in window._notice)

    assert show_in_window([str(recorded / "walk")], story, monkeypatch) == 0


def test_a_player_takes_over_and_the_new_session_names_its_parent(
    walk: Path, tiny_world: World, tiny_world_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds = walk.parent / "rolling-worlds" / "worlds"
    worlds.mkdir(parents=True)
    shutil.copy(tiny_world_path, worlds / "tiny.safetensors")
    monkeypatch.setenv("XDG_DATA_HOME", str(walk.parent))
    monkeypatch.setattr(World, "load", lambda *where, **how: tiny_world)

    def story(window: Window) -> None:
        tap("space")
        until(lambda: window._game.paused)
        tap("home")
        tap("right")
        until(lambda: window._picture is not None and window._picture.number == 36)
        tap("return")
        until(lambda: isinstance(window._game, Game))
        key(pygame.KEYDOWN, 82)  # now the arrow walks
        until(lambda: window._picture is not None and window._picture.number > 45)

    assert show_in_window([str(walk)], story, monkeypatch) == 0
    branch = Session(walk.with_name("walk-2"))
    assert branch.facts.parent and (branch.facts.parent.session, branch.facts.parent.frame) == ("walk", 36)
    assert branch.facts.parent.digest == Session(walk).digests()[35]
    assert ("forward",) in branch.tape() and any(tick.flip_s for tick in branch.ticks())
    assert "is bit-exact" in verify(branch, again(tiny_world, branch.directory))


class Viewer:
    """Looks at a projector without a window, and acts on what is shown."""

    def __init__(self, act: Callable[["Viewer"], None]) -> None:
        self.act, self.told, self.numbers = act, list[str](), list[int]()
        self.projector: Projector

    def show(self, picture: Picture) -> None:
        self.numbers.append(picture.number)
        self.act(self)

    def tell(self, sentence: str) -> None:
        self.told.append(sentence)

    def watch(self, directory: Path, rerun: Rerun, *, film: bool = True) -> Any:
        """Watch a session to the end, and return the branch that was played on from."""
        session = Session(directory)
        reel = Reel(Film(session), None) if film else Reel(None, rerun)
        self.projector = Projector(session, session.ticks(), lambda: reel, lambda: rerun, lambda rerun, branch: branch, self)  # type: ignore[arg-type, return-value]
        return self.projector.run()


def test_a_frame_that_comes_out_otherwise_is_told_when_played_on_from(walk: Path, tiny_world: World) -> None:
    digests = Session(walk).digests()

    def act(viewer: Viewer) -> None:
        if viewer.numbers[-1] == 3:
            viewer.projector.take_over()

    same, other = Viewer(act), Viewer(act)
    branch = same.watch(walk, again(tiny_world, walk))
    assert branch.parent == {"session": "walk", "frame": 3, "digest": digests[2]} and not same.told
    (walk / "digests.txt").write_text("\n".join([*digests[:2], "0" * 32, *digests[3:]]) + "\n")
    branch = other.watch(walk, again(tiny_world, walk))
    assert branch.parent["digest"] == "0" * 32, "the recorded one, by which the parent is found"
    assert other.told == ["This is not the recorded frame: the world or the machine is another"]


def test_a_session_whose_video_outlasts_its_tape_is_shown_to_the_end_of_its_tape(walk: Path, tiny_world: World) -> None:
    lines = (walk / "tape.jsonl").read_text().splitlines(keepends=True)
    (walk / "tape.jsonl").write_text("".join(lines[:39]))
    viewer = Viewer(lambda viewer: viewer.projector.last() if viewer.projector.sign != "The end" else viewer.projector.stop())
    assert viewer.watch(walk, again(tiny_world, walk)) is None and viewer.numbers[-1] == 39


def test_a_long_way_is_told_and_can_be_left(walk: Path, tiny_world: World) -> None:
    signs: list[str] = []

    def act(viewer: Viewer) -> None:
        signs.append(viewer.projector.sign)
        if len(viewer.numbers) == 1:
            viewer.projector.last()
        elif signs[-1].startswith("Getting there, frame 5"):
            viewer.projector.first()
        elif not signs[-1]:
            viewer.projector.stop()

    assert Viewer(act).watch(walk, again(tiny_world, walk), film=False) is None
    assert signs[1:5] == [f"Getting there, frame {number} of 40" for number in (2, 3, 4, 5)] and len(signs) == 6, "then it goes on from the first"


def test_a_replay_in_another_world_is_made_as_it_is_shown(recorded: Path, other_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def story(window: Window) -> None:
        until(lambda: window._picture is not None and window._picture.number > 4)
        assert window._picture and window._picture.frame.shape == (36, 66, 3)
        assert window._game.timeline.psnr_db < 40

    assert show_in_window([str(recorded / "walk"), "--world", str(other_path), "--split"], story, monkeypatch) == 0


def test_replaying_needs_no_torch_until_a_frame_is_made_again(recorded: Path) -> None:
    code = "import sys, main; code = main.main(sys.argv[1:]); print(code, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "replay", str(recorded / "walk"), "--video", str(recorded / "plain.mp4")]
    done = subprocess.run(command, cwd=Path(main.__file__).parent, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.stdout == "0 False\n", done.stderr
