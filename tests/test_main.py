"""The command line: what it asks for is done, and what is wrong with it comes back as one sentence."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from toy_world import CARD, FORWARD, TURN, ToyWorld

import main
from game import play as play_module
from game.play import PlayConfig
from main import COMMANDS, parse
from world_model.card import WorldError
from world_model.session import Session

ROOT = Path(main.__file__).parent


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyWorld:
    """Make `play` enter a toy world, whatever it is asked to enter."""
    world = ToyWorld()
    monkeypatch.setattr(play_module, "enter", lambda *where, **how: (CARD, lambda: world))
    return world


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line, check that it refuses as it should, and return what it says."""
    assert main.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert said.err[0].isupper() or said.err.startswith(("main.py ", "--", "/"))
    assert said.err.rstrip()[-1] in ".?"
    return said.err.rstrip()


def test_without_a_command_it_plays_the_maze() -> None:
    assert parse([]) == parse(["play"])
    assert parse([]).world == "maze" and not parse([]).headless
    assert parse(["--world", "some/where.safetensors", "--seed", "3"]) == parse(["play", "--world", "some/where.safetensors", "--seed", "3"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("play --sede 3", "main.py play has no option --sede; did you mean --seed?"),
        ("--hedless", "main.py play has no option --hedless; did you mean --headless?"),
        ("play --xyzzy", "main.py play has no option --xyzzy; see main.py play --help."),
        ("play --seed seven", "Error parsing --seed: 'seven' is not a whole number; see main.py play --help."),
        ("play --seed", "Missing value for argument '--seed', expected 1 values; see main.py play --help."),
        ("play --scale huge", "Invalid choice 'huge' for argument '--scale', expected one of ('integer', 'smooth'); see main.py play --help."),
        ("play maze toy", "main.py play cannot make sense of 'toy'; see main.py play --help."),
        ("play maze --world toy", "Two worlds are asked for, 'maze' and 'toy'; give one of them."),
        ("wrolds", "There is no command 'wrolds'; did you mean worlds?"),
        ("dance", "There is no command 'dance'; the commands are play, replay, worlds, parity, convert, bench, scale, response, evaluate, collect, train, "
         "thin, export."),
        ("worlds --seed 3", "main.py worlds has no option --seed; see main.py worlds --help."),
        ("replay", "Missing from main.py replay: DIR; see main.py replay --help."),
        ("export", "Missing from main.py export: DIR, the folders of sessions; see main.py export --help."),
        ("export nowhere --format zip", "Invalid choice 'zip' for argument '--format', expected one of ('lerobot', 'npz'); see main.py export --help."),
        ("replay nowhere", "The session nowhere has no header.json."),
        ("replay nowhere --verify --split", "--verify shows nothing; give it without --split, --video and --gif."),
        ("collect maze", "Missing from main.py collect: --out PATH; see main.py collect --help."),
        ("play --headless", "Without a window nobody can end the game; give --frames N, or a tape by --actions FILE."),
        ("play --headless --frames -4", "--frames is -4, but must not be negative."),
        ("play --headless --frames 1 --start 24", "--start is 24, but this world has the starts 0 to 23."),
        ("play --headless --frames 1 --start -1", "--start is -1, but this world has the starts 0 to 23."),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, *arguments.split()) == sentence


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_sentence_is_the_same_on_every_terminal(encoding: str) -> None:
    environment = os.environ | {"FORCE_COLOR": "1", "PYTHONIOENCODING": encoding, "COLUMNS": "40"}
    command = [sys.executable, "main.py", "play", "--seed", "x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (2, "Error parsing --seed: 'x' is not a whole number; see main.py play --help.\n")


def test_an_unknown_or_broken_world_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'atlantis'" in refused(capsys, "play", "atlantis")
    assert "There is no world file" in refused(capsys, "--world", str(tmp_path / "none.safetensors"))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a world at all")
    for window in ((), ("--headless", "--frames", "1")):
        assert str(broken) in refused(capsys, "play", str(broken), *window)


def test_without_a_display_there_is_one_sentence(toy: ToyWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "There is no display" in refused(capsys, "play")
    assert "--headless" in refused(capsys, "play")


@pytest.mark.parametrize(
    ("tape", "words"),
    [
        ('["forward"]\n["fly"]\n', "line 2 has the unknown action 'fly'"),
        ('["forward"]\n{"forward": 1}\n', "line 2 is not a JSON list"),
        ("forward\n", "line 1 is not a JSON list"),
        (None, "Cannot read the tape"),
    ],
)
def test_a_tape_that_cannot_be_played_is_refused(tape: str | None, words: str, toy: ToyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tape.jsonl"
    if tape is not None:
        path.write_text(tape)
    for window in ((), ("--headless",)):
        assert words in refused(capsys, "play", "--actions", str(path), *window)
    assert not toy.streams


def test_a_folder_that_cannot_be_recorded_into_is_refused(toy: ToyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("precious")
    (tmp_path / "file").write_text("")
    for window in ((), ("--headless",)):
        assert "not empty" in refused(capsys, "play", "--frames", "1", "--record", str(tmp_path / "taken"), *window)
        assert "Cannot record into" in refused(capsys, "play", "--frames", "1", "--record", str(tmp_path / "file" / "new"), *window)


def test_headless_play_says_in_one_line_what_it_did(toy: ToyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = tmp_path / "tape.jsonl"
    tape.write_text('["forward"]\n[]\n["turn_left"]\n')
    assert main.main(["play", "--headless", "--actions", str(tape), "--record", str(tmp_path / "new"), "--seed", "4"]) == 0
    assert toy.asked == [(FORWARD,), (), (TURN,)] and toy.streams == [(4, 0)]
    out = capsys.readouterr().out
    digest = Session(tmp_path / "new").digests()[-1]
    assert out.startswith("toy: 3 frames in ") and out.endswith(f" fps, last frame {digest}\n")


@pytest.mark.parametrize("frames", [0, 2, 5])
def test_frames_limit_the_tape_and_nobody_plays_after_it(frames: int, toy: ToyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = tmp_path / "tape.jsonl"
    tape.write_text('["forward"]\n["forward"]\n["forward"]\n')
    assert main.main(["play", "--headless", "--actions", str(tape), "--frames", str(frames)]) == 0
    assert toy.asked == ([(FORWARD,)] * 3 + [()] * 2)[:frames]


def test_a_window_closes_after_its_frames(toy: ToyWorld, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["play", "--frames", "3", "--no-hud", "--scale", "smooth", "--fullscreen"]) == 0
    assert len(toy.asked) == 3


def test_worlds_are_listed_with_what_is_wrong_with_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [(Path("toy.safetensors"), CARD), (Path("old.safetensors"), WorldError("old.safetensors is not a world file."))]
    monkeypatch.setattr("world_model.card.list_worlds", lambda: found)
    assert main.main(["worlds"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["toy", "Toy;", "32x24", "at", "20", "fps;", "forward,", "turn_left"]
    assert lines[1].split() == ["old", "cannot", "be", "played:", "old.safetensors", "is", "not", "a", "world", "file."]


def test_names_of_commands_and_options_stay() -> None:
    assert list(COMMANDS) == ["play", "replay", "worlds", "parity", "convert", "bench", "scale", "response", "evaluate", "collect", "train", "thin", "export"]
    assert [field.name for field in fields(PlayConfig)] == [
        "world", "seed", "start", "headless", "frames", "actions", "record", "rollback", "scale", "fullscreen", "hud", "device",
        "dtype", "compile", "prompt", "prompts", "parts", "offload", "watch", "beside_real",
    ]  # fmt: skip
    assert [field.name for field in fields(COMMANDS["replay"])] == ["verify", "world", "split", "video", "gif", "device", "dtype", "parts", "directory"]
    assert [field.name for field in fields(COMMANDS["export"])] == ["directories", "format", "out"]


@pytest.mark.parametrize(
    "arguments", ["--help", "play --help", "replay --help", "train --help", "convert --help", "worlds", "play atlantis", "play --sede", "replay nowhere"]
)
def test_help_lists_and_mistakes_import_neither_torch_nor_pygame(arguments: str) -> None:
    code = "import sys, main; main.main(sys.argv[1:]); print('torch' in sys.modules or 'pygame' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments.split()], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    if "--help" in arguments:
        assert done.stdout.startswith("usage: main.py") and not done.stderr


def test_a_world_is_played_without_torchs_compiler() -> None:
    """Some operations on tensors without memory, which worlds are first built from, import it on the quiet, and that takes a second."""
    code = "import sys, main; main.main(sys.argv[1:]); print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, "play", "--headless", "--frames", "2"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("window", [["--headless"], []])
def test_ctrl_c_ends_the_game_and_finishes_its_recording(window: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, signal; signal.signal(signal.SIGINT, signal.default_int_handler); sys.path.insert(0, 'tests')\n"
        "from toy_world import CARD, ToyWorld; from game import play; import main, time\n"
        "play.enter = lambda *where, **how: (CARD, lambda: ToyWorld(during_tick=lambda number: time.sleep(0.005)))\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "play", "--frames", "100000", "--record", str(tmp_path / "new"), *window]
    game = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    tape = tmp_path / "new" / "tape.jsonl"
    end = time.monotonic() + 30
    while not (tape.exists() and tape.stat().st_size > 500):
        assert game.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    game.send_signal(signal.SIGINT)
    _, err = game.communicate(timeout=20)
    assert (game.returncode, err) == (130, "")
    session = Session(tmp_path / "new")
    assert len(session.tape()) == len(session.digests()) == len(list(session.frames())) > 5


def test_the_process_ends_well_while_a_thread_computes() -> None:
    busy = (
        "import threading, time, torch, main; main.main = lambda: 3;"
        "work = lambda: [torch.randn(200, 200).inverse() for _ in iter(int, 1)];"
        "threading.Thread(target=work, daemon=True).start(); time.sleep(0.3); main.start()"
    )
    ended = subprocess.run([sys.executable, "-c", busy], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (3, "")
