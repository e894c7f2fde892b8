"""The judge, drift and the whole evaluation: what the figures mean, and that they can tell a good world from a dead one."""

import json
from collections.abc import Collection
from itertools import islice, repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import make_world

import main
from world_model.card import WorldError
from world_model.evaluation.bench import table
from world_model.evaluation.drift import Watch, frechet, longest_run, play, report, slicing, statistics
from world_model.evaluation.evaluate import real_flags, real_slices
from world_model.evaluation.judge import Judge, JudgeConfig, Seen, macro_f1
from world_model.evaluation.real import RealGame
from world_model.evaluation.scale import BATCHES, CONTEXTS, SIZES, WINDOWS
from world_model.real import sources
from world_model.world import World

FPS = 10.0
MOVING = np.ones((50, 2), np.float32)


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(JudgeConfig(("forward", "turn_left", "turn_right"), 32, 32, channels=(8, 8, 16), features=16, figures={"action_f1": 0.5})).eval()


def test_macro_f1_of_known_answers() -> None:
    told = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    assert macro_f1(told, told) == 1.0, "an action that never occurs does not count"
    half = told.copy()
    half[1, 0] = False
    assert macro_f1(half, told) == pytest.approx((2 / 3 + 1) / 2)
    assert macro_f1(~told, told) < 0.5


def test_the_frechet_distance_of_normal_distributions() -> None:
    a = np.random.default_rng(0).standard_normal((5000, 4))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, a + np.array([3.0, 0, 0, 0])) == pytest.approx(9)
    assert frechet(a, 2 * a) == pytest.approx(4 * 1, rel=0.1), "standard deviations 1 and 2 in each of four directions"


def test_longest_run() -> None:
    assert [longest_run(np.array(t, bool)) for t in ([], [0], [1], [1, 1, 0, 1], [0, 1, 0, 1, 1, 1])] == [0, 0, 1, 2, 3]


def picture(rng: np.random.Generator, frames: int) -> np.ndarray:
    return rng.integers(0, 256, (frames, 24, 32, 3), np.uint8)


def test_dead_pictures_are_flagged_and_live_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    live = picture(rng, 50)
    assert Watch(FPS).look(live, MOVING) == []
    assert Watch(FPS).look(live // 64, MOVING) == ["black"]
    still = np.concatenate([live[:25], live[24:25].repeat(25, 0)])
    assert Watch(FPS).look(still, MOVING) == ["frozen"]
    assert Watch(FPS).look(still, 0 * MOVING) == [], "who holds no key may stand still"
    watch = Watch(FPS)
    assert [watch.look(frames, MOVING) for frames in (live, picture(rng, 50), live)] == [[], [], ["looping"]]


def test_a_loop_shows_again_in_order_what_changes() -> None:
    rng = np.random.default_rng(0)
    live = picture(rng, 50)
    backwards, wall = live[::-1], np.full_like(live, 128)
    for again, flags in ((live[5:], ["looping"]), (backwards, [])):
        watch = Watch(FPS)
        watch.look(live, MOVING)
        watch.look(picture(rng, 50), MOVING)
        assert watch.look(again, MOVING[: len(again)]) == flags
    wall += (np.arange(50) % 2)[:, None, None, None].astype(np.uint8)
    watch = Watch(FPS)
    assert [watch.look(wall, MOVING) for _ in range(3)] == [[], [], []], "along a plain wall there is nothing to repeat"


class Short:
    """A game that ends after three steps; it shows a plain wall, each frame as bright as its number, or noise."""

    state, plain = None, True

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.rng = np.random.default_rng(0)

    def reset(self, seed: int) -> np.ndarray:
        self.begun, self.number = [*self.begun, seed], 0
        return self.step([])  # type: ignore[return-value]

    def step(self, names: object) -> np.ndarray | None:
        self.number += 1
        wall = np.full((96, 128, 3), 40 * self.number, np.uint8)
        return None if self.number > 4 else wall if self.plain else self.rng.integers(0, 256, wall.shape, np.uint8)

    def close(self) -> None:
        pass


def test_the_real_game_begins_anew_where_it_ends_and_its_walls_loop_too(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    game = Short()
    source = SimpleNamespace(open=lambda: game)
    monkeypatch.setitem(sources.SOURCES, tiny_world.card.name, source)
    played = list(islice(RealGame(tiny_world).endless(3, repeat(["forward"])), 7))
    assert [frame[0, 0, 0] for frame, _ in played] == [80, 120, 160, 80, 120, 160, 80] and all(vector.any() for _, vector in played)
    assert len(set(game.begun)) == len(game.begun) == 3, "each time somewhere else"
    flags = real_flags(tiny_world, 20 / 60, 2)
    assert flags[:, 0].tolist() == [False, False], "nothing can loop at first"
    assert flags[:, 1:].any(), "what has been seen before is a loop"
    game.plain = False
    assert not real_flags(tiny_world, 20 / 60, 2).any()


def test_what_is_read_off_the_real_game_stands_beside_what_was_done_in_it(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tiny_world.card.action_names

    class Telling(Short):
        """A game that shows which actions are held."""

        state = {"x": 0.0, "y": 0.0, "angle": 0.0}  # noqa: RUF012

        def step(self, held: Collection[str]) -> np.ndarray:
            return np.array([name in held for name in names], np.uint8).repeat(3).reshape(-1, 1, 3)

    def see(clip: np.ndarray) -> Seen:
        return Seen(np.zeros((len(clip) - 2, 4)), clip[2:, :, 0, 0] > 0, np.zeros(0), np.zeros(0))

    idle = SimpleNamespace(act=lambda game, frame: [])
    monkeypatch.setitem(sources.SOURCES, tiny_world.card.name, SimpleNamespace(open=Telling, player=lambda rng: idle))
    features, f1 = real_slices(tiny_world, SimpleNamespace(see=see), seeds=2, slices=3)  # type: ignore[arg-type]
    assert [f.shape for f in features] == [(2 * slicing(tiny_world)[0], 4)] * 3
    assert f1 == 1.0


def test_statistics_are_in_steps_of_255() -> None:
    board = np.zeros((2, 4, 4, 3), np.uint8)
    board[:, :, ::2] = 255
    assert statistics(board) == {"brightness": 127.5, "contrast": 127.5, "sharpness": 127.5}


def test_a_judge_comes_back_from_its_file(judge: Judge, tmp_path: Path) -> None:
    judge.save(tmp_path / "judge.safetensors")
    again = Judge.load(tmp_path / "judge.safetensors")
    assert again.config == judge.config
    clip = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), np.uint8)
    seen, before = again.see(clip), judge.see(clip)
    assert seen.actions.shape == (5, 3) and seen.positions.shape == (5, 2) and seen.headings.shape == (5,)
    assert np.allclose(seen.features, before.features, atol=0.05)


@pytest.mark.parametrize("content", [b"", b"not a judge", b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_judge_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "judge.safetensors").write_bytes(content)
    with pytest.raises(WorldError, match=r"judge\.safetensors"):
        Judge.load(tmp_path / "judge.safetensors")


def test_a_world_that_is_played_on_the_same_seeds_gives_the_same_report(tiny_world: World, judge: Judge) -> None:
    reports = [report(play(tiny_world, judge, 10 / 60, 2), None) for _ in range(2)]
    assert reports[0] == reports[1]
    assert list(reports[0]["action_f1"]) == ["1 s", "10 s"]
    assert len(reports[0]["statistics"]["contrast"]) == 2 and len(reports[0]["flags"]) == 2


def test_frame_by_frame_is_another_sampler(tiny_world: World) -> None:
    frames = {rolling: tiny_world.stream(seed=1).tick(["forward"], rolling=rolling) for rolling in (True, False)}
    assert not np.array_equal(frames[True], frames[False])


def test_the_command(judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.safetensors"
    make_world().save(path)
    asked = ["evaluate", str(path), "--minutes", "0.1", "--seeds", "2", "--trials", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main.main(asked) == 2
    assert "no judge for tiny" in capsys.readouterr().err
    judge.save(tmp_path / "judge.safetensors")
    assert main.main([*asked, "--judge", str(tmp_path / "judge.safetensors")]) == 0
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(told["variants"]) == ["full", "frame by frame", "no sink"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json", "drift.png", "response.png", "drift-full.png", "drift-frame-by-frame.png", "drift-no-sink.png",
    }  # fmt: skip
    assert "frame by frame" in capsys.readouterr().out


def test_figures_are_compared_with_those_of_an_earlier_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = table({"tick_ms": {"p50": 20.0}, "machine": "a"}, {"tick_ms": {"p50": 40.0}, "machine": "b"}).splitlines()
    assert lines[0].split() == ["tick_ms.p50", "20.0", "40.0", "0.50x"] and lines[1].split() == ["machine", "a", "b"]
    for content, said in (("no json", "is not what bench --out wrote"), ("[]", "has no tick_ms")):
        (tmp_path / "bench.json").write_text(content)
        assert main.main(["bench", "--against", str(tmp_path / "bench.json")]) == 2
        assert said in capsys.readouterr().err
    assert main.main(["bench", "--against", str(tmp_path / "none.json")]) == 2


def test_what_a_tick_costs_grows_with_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.safetensors"
    make_world().save(path)
    assert main.main(["scale", str(path), "--ticks", "1", "--json", "--device", "cpu", "--plot", str(tmp_path / "scale.png")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (tmp_path / "scale.png").stat().st_size
    for what, sizes in {"streams": BATCHES, "window": WINDOWS, "context": CONTEXTS, "frame": SIZES}.items():
        work = [row["gflop"] for row in told[what].values()]
        assert len(work) == len(sizes) and work == sorted(work) and work[-1] > work[0], what
    assert told["streams"]["64"]["gflop"] == pytest.approx(64 * told["streams"]["1"]["gflop"], rel=0.1)
    kept = [row["mb_per_stream"] for row in told["context"].values()]
    assert kept == sorted(set(kept)), "a longer context takes more memory"
    assert len({row["mb_per_stream"] for row in told["streams"].values()}) == 1
    assert main.main(["scale", str(path), "--ticks", "0"]) == 2
