"""Keys and tapes: what is asked of each tick."""

import pygame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_world import CARD, FORWARD, LEFT, TURN, UP, W

from controls.keyboard import Held, Keyboard
from controls.keys import SCANCODES, bindings
from controls.tape import Nobody, Tape
from world_model.card import ActionSpec


@pytest.fixture
def keyboard() -> Keyboard:
    keyboard = Keyboard()
    keyboard.bind(CARD.actions)
    return keyboard


def test_scancodes_are_those_of_the_window() -> None:
    special = {"kp_enter": "KP_ENTER", "return": "RETURN"} | {f"kp{n}": f"KP{n}" for n in range(10)}
    for name, code in SCANCODES.items():
        assert code == getattr(pygame, f"KSCAN_{special.get(name, name.upper())}"), name


def test_a_card_must_name_real_keys_and_each_only_once() -> None:
    with pytest.raises(ValueError, match="'jump' to 'any', which is not the name of a key"):
        bindings([ActionSpec("jump", ("any",), "")])
    with pytest.raises(ValueError, match="'a' to both 'jump' and 'duck'"):
        bindings([ActionSpec("jump", ("a",), ""), ActionSpec("duck", ("a",), "")])


def test_a_held_key_stays_on_and_stops_at_the_next_tick(keyboard: Keyboard) -> None:
    keyboard.press(UP, 0.0)
    assert [keyboard.take().actions for _ in range(3)] == [(FORWARD,)] * 3
    keyboard.release(UP, 1.0)
    assert keyboard.take().actions == ()


def test_a_tap_reaches_exactly_one_tick(keyboard: Keyboard) -> None:
    keyboard.press(UP, 0.0)
    keyboard.release(UP, 0.001)
    assert [keyboard.take().actions for _ in range(3)] == [(FORWARD,), (), ()]


def test_a_tap_around_a_tick_reaches_exactly_one(keyboard: Keyboard) -> None:
    keyboard.press(UP, 0.0)
    assert keyboard.take().actions == (FORWARD,)
    keyboard.release(UP, 0.001)
    assert keyboard.take().actions == ()


def test_auto_repeat_is_no_new_press(keyboard: Keyboard) -> None:
    keyboard.press(UP, 0.0)
    keyboard.take()
    keyboard.press(UP, 0.5)
    keyboard.release(UP, 0.6)
    assert keyboard.take().actions == ()


def test_of_two_keys_on_one_action_either_keeps_it_on(keyboard: Keyboard) -> None:
    keyboard.press(UP, 0.0)
    keyboard.press(W, 0.0)
    keyboard.take()
    keyboard.release(UP, 0.1)
    assert keyboard.take().actions == (FORWARD,)
    keyboard.release(W, 0.2)
    assert keyboard.take().actions == ()


def test_losing_the_focus_releases_everything(keyboard: Keyboard) -> None:
    keyboard.press(UP, 0.0)
    keyboard.press(LEFT, 0.0)
    keyboard.take()
    keyboard.release_all()
    assert keyboard.take().actions == ()
    keyboard.release(UP, 1.0)  # the late key-up of a window system does no harm
    assert keyboard.take() == Held()


def test_keys_count_before_they_mean_anything() -> None:
    keyboard = Keyboard()
    keyboard.press(UP, 0.0)
    keyboard.press(LEFT, 0.0)
    keyboard.take()
    keyboard.release(UP, 1.0)
    keyboard.bind(CARD.actions)
    assert keyboard.take().actions == (TURN,)


def test_a_tick_knows_the_oldest_input_that_it_is_first_to_see(keyboard: Keyboard) -> None:
    assert keyboard.take().input_s is None
    keyboard.press(SCANCODES["q"], 0.5)  # means nothing in this world
    keyboard.press(UP, 1.0)
    keyboard.press(LEFT, 2.0)
    assert keyboard.take() == Held((FORWARD, TURN), 1.0)
    assert keyboard.take() == Held((FORWARD, TURN), None)
    keyboard.release(UP, 3.0)
    assert keyboard.take() == Held((TURN,), 3.0)


@given(st.lists(st.tuples(st.sampled_from(["press", "release", "lose", "take"]), st.sampled_from([UP, W, LEFT]))))
def test_every_press_is_seen_and_no_release_is_lost(events: list[tuple[str, int]]) -> None:
    keyboard = Keyboard()
    keyboard.bind(CARD.actions)
    meaning = {UP: FORWARD, W: FORWARD, LEFT: TURN}
    down: set[int] = set()
    since: set[int] = set()
    for what, code in [*events, ("take", UP)]:
        if what == "press":
            since |= {code} - down
            down.add(code)
            keyboard.press(code, 0.0)
        elif what == "release":
            down.discard(code)
            keyboard.release(code, 0.0)
        elif what == "lose":
            down.clear()
            keyboard.release_all()
        else:
            assert set(keyboard.take().actions) == {meaning[code] for code in down | since}
            since.clear()


def test_a_tape_plays_its_ticks_and_then_hands_over(keyboard: Keyboard) -> None:
    keyboard.press(LEFT, 0.0)
    tape = Tape([(FORWARD,), ()], then=keyboard)
    assert [tape.take() for _ in range(3)] == [Held((FORWARD,)), Held(), Held((TURN,), 0.0)]
    alone = Tape([(FORWARD,)])
    assert [alone.take(), alone.take(), alone.take()] == [Held((FORWARD,)), None, None]
    assert Nobody().take() == Held()


def test_a_tape_tells_its_successor_what_the_keys_mean() -> None:
    keyboard = Keyboard()
    Tape([], then=keyboard).bind(CARD.actions)
    assert keyboard.binds(UP)
