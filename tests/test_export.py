"""Sessions as data for others, and for training: played ones are as good as collected ones, wherever in the game they begin."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_main import refused
from test_recording import TAPE, Person
from toy_world import CARD, ToyWorld

import main
from game.game import Game
from world_model.session import Session, SessionError, SessionWriter
from world_model.training.data import Clips, train_and_held_out


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions: one from a start of the world, one begun in mid-play, one whose process was killed before its last frames."""
    folder = tmp_path_factory.mktemp("played")
    Person({12: Game.record}, TAPE).play(ToyWorld(), folder, 30)
    for name in ("recordings/a", "recordings/z"):
        Person({}, TAPE).play(ToyWorld(), folder, 20, record=folder / name)
    with open(folder / "recordings" / "z" / "tape.jsonl", "a") as tape:
        tape.write('["forward"]\n["forw')
    return folder / "recordings"


def test_played_sessions_train_a_world(played: Path) -> None:
    clips = Clips.load(played)
    assert clips.bounds.tolist() == [0, 20, 38, 58] and clips.vocabulary == ("forward", "turn_left")
    for directory, first in zip(("a", "toy", "z"), clips.bounds, strict=False):
        for row, (frame, actions) in enumerate(zip(Session(played / directory).frames(), Session(played / directory).tape(), strict=False)):
            assert np.array_equal(clips.frames[first + row], frame)
            assert clips.actions[first + row].tolist() == [float(name in actions) for name in clips.vocabulary]


def test_training_reads_a_folder_of_recordings(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, held_out = train_and_held_out(played)
    assert (train.bounds.tolist(), held_out.bounds.tolist()) == ([0, 20, 38], [0, 20])
    assert np.array_equal(held_out.frames[7], list(Session(played / "z").frames())[7])
    capsys.readouterr()
    assert "other actions or another frame size than maze" in refused(capsys, "train", "maze", "--data", str(played), "--out", str(tmp_path))
    Person({}).play(ToyWorld(), tmp_path, 3, record=tmp_path / "one" / "only")
    with pytest.raises(SessionError, match="record at least two"):
        train_and_held_out(tmp_path / "one")


def test_arrays_hold_what_was_recorded(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["export", str(played), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"Wrote 58 frames into {tmp_path / 'out'}.\n"
    names = ["00000-a.npz", "00001-toy.npz", "00002-z.npz"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    with np.load(tmp_path / "out" / names[1], allow_pickle=False) as arrays:
        assert np.array_equal(arrays["frames"], np.stack(list(Session(played / "toy").frames())))
        assert arrays["vocabulary"].tolist() == ["forward", "turn_left"] and arrays["fps"] == CARD.fps
        assert [tuple(name for name, on in zip(arrays["vocabulary"], row, strict=True) if on) for row in arrays["actions"]] == [
            tuple(sorted(actions)) for actions in Session(played / "toy").tape()
        ]
        assert len(arrays["rollback"]) == 18 and (arrays["flip_s"] == 1000.0).all() and np.isnan(arrays["input_s"]).all()
    assert "is not empty" in refused(capsys, "export", str(played / "a"), "--out", str(tmp_path / "out"))
    assert "has no header.json" in refused(capsys, "export", str(tmp_path / "none"), "--out", str(tmp_path / "new"))


def test_sessions_that_do_not_fit_together_are_no_data_set(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    Person({}).play(ToyWorld(), tmp_path, 3, record=tmp_path / "slow")
    header = json.loads((tmp_path / "slow" / "header.json").read_text())
    (tmp_path / "slow" / "header.json").write_text(json.dumps({**header, "fps": 5.0}))
    arguments = ("export", str(played), str(tmp_path / "slow"), "--format", "lerobot", "--out", str(tmp_path / "out"))
    assert "another size, speed or other actions" in refused(capsys, *arguments)


def test_a_session_of_words_is_no_lerobot_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    with SessionWriter(tmp_path / "words", {"fps": 16.0, "width": 16, "height": 16, "actions": []}) as writer:
        writer.append(np.zeros((16, 16, 3), np.uint8), [], prompt="rain")
    arguments = ("export", str(tmp_path / "words"), "--format", "lerobot", "--out", str(tmp_path / "out"))
    assert "has no actions" in refused(capsys, *arguments)


def test_without_pyarrow_there_is_one_sentence(played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install pyarrow" in refused(capsys, "export", str(played), "--format", "lerobot", "--out", str(tmp_path / "out"))


def test_a_lerobot_data_set_pairs_what_is_seen_with_what_is_done_next(played: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert main.main(["export", str(played), "--format", "lerobot", "--out", str(tmp_path / "out")]) == 0
    info = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"], info["fps"]) == ("v3.0", 3, 55, 20)
    rows = parquet.read_table(tmp_path / "out" / "data" / "chunk-000" / "file-001.parquet").to_pylist()
    tape = Session(played / "toy").tape()
    assert [row["action"] for row in rows] == [[float(name in actions) for name in ("forward", "turn_left")] for actions in tape[1:]]
    assert [row["index"] for row in rows] == list(range(19, 36)) and rows[1]["timestamp"] == pytest.approx(1 / CARD.fps)


@pytest.mark.filterwarnings("ignore")
def test_lerobots_own_loader_opens_the_data_set(played: Path, tmp_path: Path) -> None:
    lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    assert main.main(["export", str(played), "--format", "lerobot", "--out", str(tmp_path / "out")]) == 0
    data = lerobot.LeRobotDataset("local/played", root=tmp_path / "out", video_backend="pyav")
    assert len(data) == 55 and data.num_episodes == 3 and data.meta.stats["action"]["mean"].shape == (2,)
    tape, frames = Session(played / "toy").tape(), list(Session(played / "toy").frames())
    for row in (0, 7, 16):
        item = data[19 + row]
        assert item["action"].tolist() == [float(name in tape[row + 1]) for name in ("forward", "turn_left")]
        assert item["task"] == "play the world toy"
        picture = item["observation.images.screen"].permute(1, 2, 0).numpy() * 255
        assert np.abs(picture - frames[row]).max() < 4
