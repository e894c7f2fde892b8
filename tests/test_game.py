"""The game loop without a screen, under a clock that passes only when it is told to."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_world import CARD, FORWARD, LEFT, TURN, UP, ToyClock, ToyWorld

from controls.keyboard import Keyboard
from controls.tape import Nobody, Tape
from game.game import Game, GameConfig
from game.mailbox import Mailbox, Picture
from game.meters import KeyToPhoton, Speed, Speedometer, percentile
from game.pacing import SLACK, Pace
from game.play import NullScreen
from game.recorder import QUEUE_FRAMES, new_folder
from world_model.session import Session, SessionError, SessionWriter, frame_digest

PERIOD = 1 / CARD.fps


# Pacing


@given(st.floats(0.01, 1.0), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_ticks_never_start_early_nor_race_to_catch_up(period_s: float, work: list[float]) -> None:
    pace, now, starts = Pace(period_s, 0.0), 0.0, []
    for periods in work:
        now += pace.wait_s(now)
        assert now >= pace.due_s - 1e-9
        starts.append(now)
        pace = pace.started(now)
        assert now + (1 - SLACK) * period_s - 1e-9 <= pace.due_s <= now + period_s + 1e-9
        now += periods * period_s
    for first in range(len(starts)):
        assert (starts[-1] - starts[first]) >= (len(starts) - 1 - first - SLACK) * period_s - 1e-9


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 0.9)), min_size=1, max_size=60))
def test_hurried_ticks_start_at_most_one_period_early_and_the_world_keeps_its_speed(ticks: list[tuple[bool, float]]) -> None:
    pace, now = Pace(1.0, 0.0), 0.0
    for number, (hurried, work) in enumerate(ticks):
        now += pace.wait_s(now, hurried=hurried)
        assert now >= number - hurried - 1e-9
        pace = pace.started(now)
        assert not pace.late and pace.due_s == number + 1, "deadlines stay where they are"
        now += work


@given(st.lists(st.floats(0, 0.99 * SLACK), min_size=2, max_size=60))
def test_small_delays_are_caught_up(delays: list[float]) -> None:
    pace, now = Pace(1.0, 0.0), 0.0
    for number, delay in enumerate(delays):
        now = now + pace.wait_s(now) + delay
        pace = pace.started(now)
        assert not pace.late
        assert pace.due_s == pytest.approx(number + 1)


def test_a_late_tick_lays_the_deadlines_anew() -> None:
    pace = Pace(1.0, 0.0).started(0.6)
    assert pace == Pace(1.0, 1.6, late=True)
    assert Pace(0.0, 0.0).started(5.0) == Pace(0.0, 5.0), "without a pace nothing is late"


# Meters and mailbox


def test_the_speed_is_that_of_the_last_two_seconds() -> None:
    meter = Speedometer(10.0)
    for number in range(100):
        speed = meter.tick(number * 0.2, number * 0.2 + 0.05, late=number >= 90)
    assert speed == Speed(pytest.approx(5.0), pytest.approx(0.5), pytest.approx(50.0), pytest.approx(0.5))
    meter.reset()
    assert meter.tick(0.0, 0.01, False).fps == 0.0


def test_percentiles() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(range(1, 101), 0.95) == 95
    reaction = KeyToPhoton()
    assert reaction.p50_p95_ms() is None
    reaction.add(1.0, 1.05)
    assert reaction.p50_p95_ms() == (pytest.approx(50.0), pytest.approx(50.0))


def test_the_mailbox_keeps_the_newest_picture_and_the_oldest_input() -> None:
    mailbox, frame = Mailbox(), np.zeros((1, 1, 3), np.uint8)
    mailbox.show(Picture(frame, 1, input_s=1.0))
    mailbox.show(Picture(frame, 2, input_s=2.0))
    mailbox.tell("one")
    mailbox.tell("two")
    picture, sentences = mailbox.fetch()
    assert picture and (picture.number, picture.input_s, sentences) == (2, 1.0, ["one", "two"])
    assert mailbox.fetch() == (None, [])


# The loop, without a window


def run_game(world: ToyWorld, player: object, config: GameConfig, clock: ToyClock | None = None, load: Callable[[], None] = lambda: None) -> list[Picture]:
    pictures: list[Picture] = []

    class Screen(NullScreen):
        def show(self, picture: Picture) -> None:
            pictures.append(picture)

    def open_world() -> ToyWorld:
        load()
        return world

    Game(open_world, player, Screen(), config, clock or ToyClock()).run()  # type: ignore[arg-type]
    return pictures


def test_a_frame_is_made_from_the_input_read_after_the_wait() -> None:
    """The key goes down in the wait right before the third tick, and up in the wait right before the fourth."""
    keyboard, waits = Keyboard(), 0

    def during_wait(wait_s: float | None) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            keyboard.press(UP, clock.now_s())
        if waits == 3:
            keyboard.release(UP, clock.now_s())

    clock, world = ToyClock(during_wait), ToyWorld()
    pictures = run_game(world, keyboard, GameConfig(frames=5), clock)
    assert world.asked == [(), (), (FORWARD,), (), ()]
    assert [picture.actions for picture in pictures] == [(), *world.asked]
    assert [int(picture.frame[0, 0, 1]) for picture in pictures] == [0, 0, 0, 255, 0, 0]
    assert pictures[3].input_s == pytest.approx(PERIOD)
    assert clock.now_s() == pytest.approx(4 * PERIOD), "five ticks, one period apart"


def test_a_key_cuts_the_wait_short() -> None:
    """A key goes down early in the wait for the third tick: that begins at once, and the ones after it when they would have begun anyway."""
    keyboard, starts = Keyboard(), []

    def during_wait(wait_s: float | None) -> float | None:
        if len(starts) != 2 or keyboard.waits:
            return None
        keyboard.press(UP, clock.now_s() + PERIOD / 4)
        game.hurry()
        return PERIOD / 4

    clock, world = ToyClock(during_wait), ToyWorld()
    world.during_tick = lambda _: starts.append(clock.now_s())
    game = Game(lambda: world, keyboard, NullScreen(), GameConfig(frames=5), clock)
    game.run()
    assert world.asked == [(), (), (FORWARD,), (FORWARD,), (FORWARD,)]
    assert [start / PERIOD for start in starts] == pytest.approx([0, 1, 1.25, 3, 4])


@pytest.mark.parametrize("moment", ["wait", "tick"])
def test_a_tap_of_a_millisecond_reaches_exactly_one_tick(moment: str) -> None:
    keyboard = Keyboard()

    def tap(_: object) -> None:
        if len(world.asked) == 3:
            keyboard.press(UP, 0.0)
            keyboard.release(UP, 0.001)

    clock, world = ToyClock(), ToyWorld()
    if moment == "wait":
        clock.during_wait = tap
    else:
        world.during_tick = tap
    run_game(world, keyboard, GameConfig(frames=8), clock)
    assert world.asked == [(), (), (), (FORWARD,), (), (), (), ()]


def test_keys_pressed_and_released_while_the_world_loads_count() -> None:
    keyboard = Keyboard()
    keyboard.press(UP, 0.0)
    keyboard.take()

    def load() -> None:
        keyboard.press(LEFT, 1.0)
        keyboard.release(UP, 2.0)

    world = ToyWorld()
    run_game(world, keyboard, GameConfig(frames=2), load=load)
    assert world.asked == [(TURN,), (TURN,)]


def test_the_player_is_told_when_ticks_are_late() -> None:
    clock = ToyClock()
    world = ToyWorld(during_tick=lambda number: clock.advance(2 * PERIOD))
    speed = run_game(world, Nobody(), GameConfig(frames=30), clock)[-1].speed
    assert speed.factor == pytest.approx(0.5)
    assert speed.tick_ms == pytest.approx(2000 * PERIOD)
    assert speed.late_share > 0.9


def test_pause_makes_no_ticks_and_a_step_makes_one() -> None:
    story: list[tuple[str, int]] = []

    def during_wait(wait_s: float | None) -> None:
        if len(world.asked) == 3 and not story:
            game.pause(True)
            story.append(("paused", 3))
        elif wait_s is None:
            story.append(("asleep", len(world.asked)))
            [game.step, game.step, lambda: game.pause(False)][len(story) - 2]()

    clock, world = ToyClock(during_wait), ToyWorld()
    game = Game(lambda: world, Nobody(), NullScreen(), GameConfig(frames=8), clock)
    game.run()
    assert story == [("paused", 3), ("asleep", 3), ("asleep", 4), ("asleep", 5)]
    assert len(world.asked) == 8


def test_restart_takes_the_same_seed_or_the_next_one() -> None:
    def during_tick(number: int) -> None:
        if len(world.asked) in (2, 4, 6):
            game.restart(next_seed=len(world.asked) > 2)

    world = ToyWorld(during_tick=during_tick)
    game = Game(lambda: world, Nobody(), NullScreen(), GameConfig(seed=5, start=1, frames=8), ToyClock())
    game.run()
    assert world.streams == [(5, 1), (5, 1), (6, 2), (7, 0)]


def test_without_pace_nothing_waits() -> None:
    clock = ToyClock()
    run_game(ToyWorld(), Nobody(), GameConfig(frames=50, paced=False), clock)
    assert clock.now_s() == 0.0


def test_the_game_ends_with_its_tape() -> None:
    world = ToyWorld()
    run_game(world, Tape([(FORWARD,), (), (TURN,)]), GameConfig())
    assert world.asked == [(FORWARD,), (), (TURN,)]


# Rollback


def test_the_card_the_option_and_the_player_say_how_deep_a_rollback_goes() -> None:
    def during_tick(number: int) -> None:
        if number == 4:
            game.cycle_rollback()

    for asked, expected in ((None, [0, 1, 1, 1, 2, 2]), (0, [0, 0, 0, 0, 1, 1]), (2, [0, 2, 2, 2, 0, 0])):
        world = ToyWorld(msgspec.structs.replace(CARD, rollback=1), during_tick)
        tape = [(FORWARD,) if number % 2 else () for number in range(6)]
        game = Game(lambda world=world: world, Tape(tape), NullScreen(), GameConfig(rollback=asked), ToyClock())
        game.run()
        assert world.rolled_back == expected


def test_a_held_key_rolls_nothing_back() -> None:
    world = ToyWorld()
    run_game(world, Tape([(FORWARD,)] * 3 + [(TURN,)] * 3), GameConfig(rollback=2))
    assert world.rolled_back == [0, 0, 0, 2, 0, 0]


def test_a_machine_that_is_too_slow_rolls_back_less_deep_and_says_so() -> None:
    """A tick takes 0.6 of a period; one more pass still fits, two do not."""
    clock = ToyClock()
    world = ToyWorld(during_tick=lambda number: clock.advance(PERIOD * (0.6 + 0.3 * world.rolled_back[-1])))
    pictures = run_game(world, Tape([(FORWARD,) if number // 3 % 2 else () for number in range(30)]), GameConfig(rollback=2), clock)
    assert set(world.rolled_back[3:]) == {0, 1}
    assert pictures[-1].rollback == 2 and pictures[-1].allowed_rollback == 1
    assert not any(picture.speed.late_share for picture in pictures)


def test_a_rollback_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="--rollback is 3, but this world can be rolled back by 0 to 2 levels"):
        run_game(ToyWorld(), Nobody(), GameConfig(rollback=3))


# Recording


def test_a_recording_holds_every_frame_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = SessionWriter.append

    def slow_append(self: SessionWriter, *arguments: object) -> None:
        time.sleep(0.001)  # slower than the world, so that the queue fills and the game must wait
        append(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SessionWriter, "append", slow_append)
    tape = [(FORWARD,) if number % 3 else () for number in range(2 * QUEUE_FRAMES)]
    world = ToyWorld()
    pictures = run_game(world, Tape(tape), GameConfig(seed=3, paced=False, record=tmp_path / "new", rollback=2))
    session = Session(tmp_path / "new")
    assert session.tape() == tape
    assert [tick.rollback for tick in session.ticks()] == world.rolled_back and max(world.rolled_back) == 2
    assert session.digests() == [frame_digest(picture.frame) for picture in pictures[1:]]
    assert len(list(session.frames())) == len(tape)
    assert session.header["source"] == "play" and session.header["seed"] == 3 and session.header["keys"][FORWARD] == ["up", "w"]


def test_a_restart_goes_on_recording_in_a_folder_beside(tmp_path: Path) -> None:
    def during_tick(number: int) -> None:
        if len(world.asked) == 3:
            game.restart(next_seed=True)

    world = ToyWorld(during_tick=during_tick)
    game = Game(lambda: world, Nobody(), NullScreen(), GameConfig(frames=5, record=tmp_path / "walk"), ToyClock())
    game.run()
    sessions = [Session(tmp_path / "walk"), Session(tmp_path / "walk-2")]
    assert [len(session.tape()) for session in sessions] == [3, 2]
    assert [session.header["seed"] for session in sessions] == [0, 1]
    assert new_folder(tmp_path / "walk") == tmp_path / "walk-3" and (tmp_path / "walk-3").is_dir()


def test_a_failing_disk_is_told_once_and_the_game_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    append = SessionWriter.append

    def full(self: SessionWriter, *arguments: object) -> None:
        if self.num_frames == 4:
            raise SessionError("Recording stopped: no space left.")
        append(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SessionWriter, "append", full)
    world = ToyWorld()
    run_game(world, Nobody(), GameConfig(frames=3 * QUEUE_FRAMES, record=tmp_path / "new"))
    assert len(world.asked) == 3 * QUEUE_FRAMES
    assert len(Session(tmp_path / "new").tape()) == 4
    assert capsys.readouterr().err == "Recording stopped: no space left.\n"


def test_a_recording_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(SessionError, match="not empty"):
        run_game(ToyWorld(), Nobody(), GameConfig(frames=1, record=tmp_path))
