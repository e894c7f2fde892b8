"""Recording by key, instant clips, rewinding and save slots; and what is left when the disk or the process fails."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from toy_world import CARD, FORWARD, TURN, ToyClock, ToyWorld

import main
from controls.keyboard import Held
from game import cost
from game.game import CLIP_S, Game, GameConfig
from game.history import History, Moment
from game.mailbox import Picture
from game.recorder import STATE_S, Recorder, new_folder
from world_model.machine import processor
from world_model.session import Session, SessionError, SessionWriter, frame_digest

ROOT = Path(main.__file__).parent
SPACING = round(STATE_S * CARD.fps)
HEADER = {"fps": 17.5, "width": 32, "height": 24, "actions": ["forward"]}


class Person:
    """Plays by a script: {tick: what is done before it is made}, and rewinds for as many pictures as asked."""

    def __init__(self, acts: dict[int, Callable[[Game], None]], tape: Sequence[tuple[str, ...]] = ()) -> None:
        self.acts, self.tape, self.taken = acts, tape, 0
        self.rewinding = 0
        self.pictures: list[Picture] = []
        self.told: list[str] = []
        self.keys: Mapping[str, tuple[str, ...]] = {}
        self.game: Game

    def bind(self, actions: object) -> None:
        pass

    def take(self) -> Held:
        held = Held(self.tape[self.taken % len(self.tape)] if self.tape else ())
        self.taken += 1
        if self.taken in self.acts:
            self.acts[self.taken](self.game)
        return held

    def show(self, picture: Picture) -> None:
        self.pictures.append(picture)
        if picture.moment:
            picture.moment.flip_s = 1000.0
        if self.game.sign == "Rewinding":
            self.rewinding -= 1
            if self.rewinding <= 0:
                self.game.rewind(False)

    def tell(self, sentence: str) -> None:
        self.told.append(sentence)

    def rewind(self, pictures: int) -> Callable[[Game], None]:
        def act(game: Game) -> None:
            self.rewinding = pictures + 1  # the tick for which the key was held is still made
            game.rewind(True)

        return act

    def play(self, world: object, folder: Path, frames: int, **config: object) -> "Person":
        self.game = Game(lambda: world, self, self, GameConfig(frames=frames, paced=False, own_folder=folder, **config), ToyClock())  # type: ignore[arg-type]
        self.game.run()
        return self


TAPE = [(FORWARD,), (FORWARD,), (), (TURN,), (TURN, FORWARD)]


def test_recording_by_key_begins_and_ends_between_two_ticks(tmp_path: Path) -> None:
    person = Person({3: Game.record, 8: Game.record}, TAPE).play(ToyWorld(), tmp_path, 12)
    session = Session(tmp_path / "recordings" / "toy")
    assert session.facts.state and session.facts.parent is None
    assert session.tape() == [TAPE[number % 5] for number in range(3, 8)]
    assert session.digests() == [frame_digest(picture.frame) for picture in person.pictures[4:9]]
    assert person.told == [f"Saved 0 s in {session.directory}"]
    assert all(tick.flip_s == 1000.0 and tick.input_s is None for tick in session.ticks())


def test_a_session_that_begins_at_a_start_needs_no_state(tmp_path: Path) -> None:
    Person({1: lambda game: game.restart(), 3: Game.record}, TAPE).play(ToyWorld(), tmp_path, 6, record=tmp_path / "mine")
    sessions = [Session(tmp_path / name) for name in ("mine", "mine-2")]
    assert [session.facts.state for session in sessions] == [False, False]
    assert [len(session.tape()) for session in sessions] == [1, 2]


def test_an_instant_clip_is_the_last_thirty_seconds(tmp_path: Path) -> None:
    count = round(CLIP_S * CARD.fps)
    person = Person({5: Game.clip, count + 50: Game.clip}, TAPE).play(ToyWorld(), tmp_path, count + 60)
    early, late = (Session(tmp_path / "recordings" / name) for name in ("toy-clip", "toy-clip-2"))
    if len(early.tape()) != 5:  # they are written side by side
        early, late = late, early
    assert not early.facts.state and len(early.tape()) == 5
    assert late.facts.state and len(late.tape()) == count
    assert late.digests() == [frame_digest(picture.frame) for picture in person.pictures[51 : count + 51]]
    assert any("Saved the last 30 s in" in sentence for sentence in person.told)


def test_a_clip_is_saved_beside_a_recording(tmp_path: Path) -> None:
    person = Person({8: Game.clip}, TAPE).play(ToyWorld(), tmp_path, 12, record=tmp_path / "mine")
    whole, clip = Session(tmp_path / "mine"), Session(tmp_path / "mine-clip")
    assert len(whole.tape()) == 12 and clip.tape() == whole.tape()[:8] and clip.digests() == whole.digests()[:8]
    assert person.told == [f"Saved the last 0 s in {clip.directory}"]
    assert Person({1: Game.restart, 2: lambda game: (game.restart(), game.clip())}).play(ToyWorld(), tmp_path, 3).told == [
        "Nothing has been played yet that a clip could hold"
    ]


def test_the_header_says_what_frames_and_keys_depend_on(tmp_path: Path) -> None:
    person = Person({})
    person.keys = {FORWARD: ("i", "pad_a")}
    header = Session(person.play(ToyWorld(), tmp_path, 1, record=tmp_path / "mine").game._recordings.folder).header
    assert header["keys"] == {FORWARD: ["i", "pad_a"], TURN: ["left"]}
    assert {"rolling-worlds", "torch", "python", "av"} <= header["versions"].keys() and header["machine"]["processor"] == processor()


def test_states_are_kept_along_the_way(tmp_path: Path) -> None:
    Person({}, TAPE).play(ToyWorld(), tmp_path, 2 * SPACING + 5, record=tmp_path / "mine")
    states = Session(tmp_path / "mine").states_between()
    assert sorted(states) == [SPACING, 2 * SPACING]
    assert ToyWorld().stream().load(states[SPACING])["number"] == SPACING
    link = tmp_path / "mine" / "states" / "7.safetensors"
    link.symlink_to("/etc/hostname")
    with pytest.raises(SessionError, match="leads out of its folder"):
        Session(tmp_path / "mine").states_between()


def test_two_recordings_never_get_the_same_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(new_folder, [tmp_path / "walk"] * 50))
    assert {folder.name for folder in folders} == {"walk", *(f"walk-{number}" for number in range(2, 51))}
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert new_folder(tmp_path / "nowhere").name == "nowhere-2"
    with pytest.raises(SessionError, match=r"Cannot record into .*: Not a directory\."):
        new_folder(Path("/etc/hostname/walk"))


def test_a_restart_lets_go_of_the_stream_before(tmp_path: Path) -> None:
    """Its state may take gigabytes."""
    streams: list[weakref.ref] = []

    def remember(game: Game) -> None:
        streams.append(weakref.ref(game._stream))
        game.restart()

    person = Person({2: remember, 4: remember}, TAPE).play(ToyWorld(), tmp_path, 12, record=tmp_path / "walk")
    gc.collect()
    assert [stream() for stream in streams] == [None, None] and person.told == []


def test_rewinding_goes_back_and_the_recording_branches(tmp_path: Path) -> None:
    person = Person({}, TAPE)
    person.acts = {10: person.rewind(4)}
    world = ToyWorld()
    person.play(world, tmp_path, 13, record=tmp_path / "walk")
    numbers = [picture.number for picture in person.pictures]
    assert numbers == [*range(11), 9, 8, 7, 6, 7, 8, 9]
    whole, branch = Session(tmp_path / "walk"), Session(tmp_path / "walk-2")
    assert len(whole.tape()) == 10 and len(branch.tape()) == 3
    assert branch.facts.parent is not None and branch.facts.state
    assert (branch.facts.parent.session, branch.facts.parent.frame) == ("walk", 6)
    assert branch.facts.parent.digest == whole.digests()[5]


def test_who_rewinds_past_a_branch_names_the_session_before_it(tmp_path: Path) -> None:
    person = Person({}, TAPE)
    person.acts = {10: person.rewind(4), 12: person.rewind(5)}
    person.play(ToyWorld(), tmp_path, 15, record=tmp_path / "walk")
    assert [picture.number for picture in person.pictures] == [*range(11), 9, 8, 7, 6, 7, 8, 7, 6, 5, 4, 3, 4, 5, 6]
    parents = [Session(tmp_path / name).facts.parent for name in ("walk-2", "walk-3")]
    assert [(parent.session, parent.frame) for parent in parents if parent] == [("walk", 6), ("walk", 3)]


def test_rewinding_ends_at_the_oldest_moment_and_a_tap_goes_back_one(tmp_path: Path) -> None:
    person = Person({}, TAPE)
    person.acts = {4: person.rewind(9), 6: lambda game: (game.rewind(True), game.rewind(False))}
    person.play(ToyWorld(), tmp_path, 7)
    assert [picture.number for picture in person.pictures] == [0, 1, 2, 3, 4, *[3, 2, 1, 0, 0, 0, 0, 0, 0], 1, 2, 1, 2]


def test_the_memory_of_the_past_is_bounded() -> None:
    history, shared = History(max_bytes=1000), np.zeros(100, np.uint8)
    for number in range(100):
        history.add(Moment(np.zeros((1, 1, 10, 3), np.uint8), number, 0.0, {"own": np.zeros(70, np.uint8), "all": [shared]}))
        assert history.num_bytes <= 1000
    assert len(history) == 10 and history.newest.number == 99
    assert [moment.number for moment in history.last(3)] == [97, 98, 99]
    while len(history) > 1:
        history.back()
    assert history.back().number == 90 and history.num_bytes in (100, 200)
    history.add(Moment(np.zeros((1, 100, 100, 3), np.uint8), 1, 0.0, None))
    assert len(history) == 1, "the newest moment is always kept"


def test_what_was_gone_back_over_is_not_taken_for_what_comes_after() -> None:
    """A new array may get the address of a forgotten one."""
    history = History()
    for number in range(2):
        history.add(Moment(np.zeros((1, 1, 1, 3), np.uint8), number, 0.0, [np.zeros(1000)]))
    for _ in range(20):
        history.back()
        history.add(Moment(np.zeros((1, 1, 1, 3), np.uint8), 1, 0.0, [np.zeros(1000)]))
    assert history.num_bytes == 2 * 8003
    history.cut(0)
    assert history.newest.number == 0 and history.num_bytes == 8003


def test_slots_survive_the_program(tmp_path: Path) -> None:
    def next_slot(game: Game) -> None:
        game.slots.choose_next()
        game.save()

    first = Person({4: Game.save, 6: next_slot}, TAPE).play(ToyWorld(), tmp_path, 7, seed=5)
    assert sorted(first.told) == ["Saved in slot 1", "Saved in slot 2"]
    world = ToyWorld()
    second = Person({2: Game.load, 4: lambda game: (game.slots.choose_next(), game.load())}, TAPE).play(world, tmp_path, 6)
    assert [picture.number for picture in second.pictures] == [0, 1, 2, 4, 5, 6, 6, 7, 8]
    assert second.game.seed == 5 and int(second.pictures[-1].frame[0, 0, 2]) == 5
    third = Person({1: lambda game: [game.slots.choose_next() for _ in range(3)] and game.load()}).play(ToyWorld(), tmp_path, 3)
    assert third.told == ["Slot 4 is empty"]


# When something fails


def test_a_recording_that_cannot_begin_is_told_and_the_game_goes_on(tmp_path: Path) -> None:
    (tmp_path / "recordings").write_text("in the way")
    person = Person({2: Game.record, 4: Game.clip, 5: Game.save}).play(ToyWorld(), tmp_path, 30)
    assert len(person.told) == 3 and sum("Cannot record into" in sentence for sentence in person.told) == 2
    assert not any("Errno" in sentence for sentence in person.told)
    assert person.taken == 30


def test_a_removed_folder_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "recordings" / "toy"

    def remove(game: Game) -> None:
        while not (folder / "video.mp4").exists():
            time.sleep(0.001)
        shutil.rmtree(folder)

    person = Person({1: Game.record, 30: remove}, TAPE).play(ToyWorld(), tmp_path, 200)
    assert person.told == [f"Recording stopped: the folder {folder} was removed."]
    assert person.taken == 200


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Be a user who may not write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_folder_is_told() -> None:
    with tempfile.TemporaryDirectory() as reachable:  # for others, which pytest's folders are not
        folder = Path(reachable) / "mine"
        folder.mkdir()
        for path in (folder, folder.parent):
            path.chmod(0o555)
        with nobody():
            assert list(folder.iterdir()) == []
            with pytest.raises(SessionError, match=r"Cannot record into .*: Permission denied\."):
                SessionWriter(folder / "new", HEADER)
            person = Person({2: Game.record, 4: Game.clip, 5: Game.save}).play(ToyWorld(), folder, 30)
        folder.parent.chmod(0o755)
        toy = folder / "recordings" / "toy"
        refused = [f"Cannot record into {toy}-clip: Permission denied.", f"Cannot record into {toy}: Permission denied."]
        assert sorted(person.told)[:2] == refused and sorted(person.told)[2].startswith(f"Cannot write {folder / 'slots'}")
        assert person.taken == 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_small_disk_runs_full_and_the_game_goes_on(small_disk: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 24, 32, 3), np.uint8)
    person = Person({1900: Game.clip}, TAPE)
    world = ToyWorld()
    world.frame_of = lambda number: noise[number % 64]  # type: ignore[method-assign]
    person.play(world, small_disk, 2000, record=small_disk / "mine")
    assert person.taken == 2000
    recording, clip = person.told
    assert recording == f"Recording into {small_disk / 'mine'} stopped: No space left on device."
    assert clip.startswith(f"Cannot record into {small_disk / 'mine-clip'}") or "stopped: No space left" in clip
    session = Session(small_disk / "mine")
    written = len(session.tape())
    assert 10 < written < 1900 and 0 <= len(session.digests()) - written <= 1
    assert session.tape() == [TAPE[number % 5] for number in range(written)]
    assert written - 2 * CARD.fps < len(list(session.frames())) <= written + 1


FULL = """
import resource, sys
from pathlib import Path
from controls.tape import Nobody
from game.game import Game, GameConfig
from game.play import NullScreen
from toy_world import ToyWorld
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
world, screen = ToyWorld(), NullScreen()
Game(lambda: world, Nobody(), screen, GameConfig(frames=2000, paced=False, record=Path(sys.argv[1]))).run()
print(len(world.asked))
"""


@pytest.mark.parametrize("limit", [300, 3000, 20_000])
def test_a_full_disk_keeps_what_was_written(tmp_path: Path, limit: int) -> None:
    """No file may grow past the limit: either the header does not fit, or the digests, or the video."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "new"), str(limit)]
    done = subprocess.run(command, cwd=ROOT / "tests", env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=50)
    if limit < 1000:
        assert "Cannot record into" in done.stderr
        return
    assert done.stdout == "2000\n", done.stderr
    assert done.stderr.count("\n") == 1 and "Recording into" in done.stderr and "File too large" in done.stderr
    session = Session(tmp_path / "new")
    written = len(session.tape())
    assert 10 < written < 2000 and written <= len(session.digests()) <= written + 1
    if limit > 10_000:
        assert written - len(list(session.frames())) < 2 * CARD.fps


KILLED = """
import sys, time
from pathlib import Path
from controls.tape import Tape
from game.game import Game, GameConfig
from game.play import NullScreen
from toy_world import ToyWorld
tape = [("forward",) if number % 3 else () for number in range(10000)]
world = ToyWorld(during_tick=lambda number: time.sleep(0.001))
Game(lambda: world, Tape(tape), NullScreen(), GameConfig(paced=False, record=Path(sys.argv[1]))).run()
"""


def test_a_killed_process_leaves_everything_up_to_its_last_frames(tmp_path: Path) -> None:
    moments = np.random.default_rng().integers(60, 200, 3)  # any moment will do
    command = [sys.executable, "-c", KILLED]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    games = [subprocess.Popen([*command, str(tmp_path / f"{lines}")], cwd=ROOT / "tests", env=environment) for lines in moments]
    for game, lines in zip(games, moments, strict=True):
        digests, end = tmp_path / f"{lines}" / "digests.txt", time.monotonic() + 30
        while not digests.exists() or digests.stat().st_size < 33 * lines:
            assert game.poll() is None and time.monotonic() < end
            time.sleep(0.002)
        game.send_signal(signal.SIGKILL)
        game.wait()
        session = Session(digests.parent)
        written = len(session.tape())
        assert written >= lines - 1 and session.tape() == [(FORWARD,) if number % 3 else () for number in range(written)]
        assert written <= len(session.digests()) <= written + 1
        assert written - 2 * CARD.fps < len(list(session.frames())) <= written + 1


def test_an_empty_recording_is_a_session_without_frames(tmp_path: Path) -> None:
    Person({}).play(ToyWorld(), tmp_path, 0, record=tmp_path / "empty")
    session = Session(tmp_path / "empty")
    assert session.tape() == session.digests() == list(session.frames()) == []


def test_the_game_never_waits_for_a_disk_that_is_gone(tmp_path: Path) -> None:
    def refuse() -> SessionWriter:
        raise SessionError("No.")

    told: list[str] = []
    moment = Moment(np.zeros((1, 2, 2, 3), np.uint8), 0, 0.0, None)
    recorder = Recorder(refuse, moment, lambda path, saved: None, told.append)
    for _ in range(1000):
        recorder.append(moment)
    recorder.close()
    recorder.close()
    assert told == ["No."] and not recorder.writing


def test_recording_takes_little_of_a_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both threads together spend less than 5 % of a 57 ms tick, 2.8 ms; counted in processor time, which a busy machine does not stretch."""
    spent: dict[str, list[float]] = {"append": [], "_write": []}

    def timed(name: str) -> None:
        method = getattr(Recorder, name)

        def call(self: Recorder, moment: Moment) -> None:
            began = time.thread_time()
            method(self, moment)
            spent[name].append(1000 * (time.thread_time() - began))

        monkeypatch.setattr(Recorder, name, call)

    timed("append")
    timed("_write")
    world = ToyWorld(msgspec.structs.replace(CARD, width=128, height=96), during_tick=lambda number: time.sleep(0.002))
    noise = np.random.default_rng(0).integers(0, 256, (16, 96, 128, 3), np.uint8)  # no picture is harder to write
    world.frame_of = lambda number: noise[number % 16]  # type: ignore[method-assign]
    Person({}, TAPE).play(world, tmp_path, 200, record=tmp_path / "mine")
    assert len(spent["append"]) == len(spent["_write"]) == 200
    assert sum(sorted(times)[100] for times in spent.values()) < 2.8


def test_what_recording_costs_is_measured() -> None:
    world = ToyWorld(during_tick=lambda number: time.sleep(0.002))
    figures = cost.measure(world, turns=2)
    assert len(world.asked) == 5 * cost.TURN_TICKS
    assert min(figures["tick_ms"], figures["recorded_tick_ms"]) > 2 and figures["percent"] > -50
