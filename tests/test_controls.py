"""Keys, gamepads and tapes: what is asked of each tick."""

from pathlib import Path

import pygame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_world import CARD, FORWARD, LEFT, TURN, UP, W

from controls.gamepad import Gamepads
from controls.keyboard import Held, Keyboard
from controls.keys import CODES, SCANCODES, bindings
from controls.layout import Layout, gamepad_keys
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
    tape = Tape([(FORWARD, "fly")], then=keyboard)
    tape.bind(CARD.actions)
    assert keyboard.binds(UP)
    assert tape.take() == Held((FORWARD,)), "a swap has led to a world where nobody flies"


# The player's own layout


MAZE = tuple(ActionSpec(name, (key,), name) for name, key in (
    ("turn_left", "left"), ("turn_right", "right"), ("forward", "up"), ("strafe_left", "a"), ("strafe_right", "d"), ("fire", "space"), ("use", "pad_a"),
))  # fmt: skip


def test_a_gamepad_needs_no_setting_up() -> None:
    assert gamepad_keys(MAZE) == {
        "turn_left": ("pad_left", "stick_left"), "turn_right": ("pad_right", "stick_right"), "forward": ("pad_up", "stick_up"),
        "strafe_left": ("pad_l1",), "strafe_right": ("pad_r1",), "fire": ("pad_b",), "use": ("pad_x",),
    }  # fmt: skip
    many = [ActionSpec(f"action_{n}", (), "") for n in range(64)]
    assert sum(bool(keys) for keys in gamepad_keys(many).values()) == 10


def test_a_card_may_name_buttons_and_sticks_itself() -> None:
    actions = ActionSpec("push_left", ("left", "pad_left"), ""), ActionSpec("turn_right", ("d",), ""), ActionSpec("jump", ("stick_right",), "")
    keys = {bound.name: bound.keys for bound in Layout().of(actions)}
    assert keys == {"push_left": ("left", "pad_left", "stick_left"), "turn_right": ("d", "pad_right"), "jump": ("stick_right", "pad_a")}
    bindings(Layout().of(actions))


def test_keys_are_chosen_added_and_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "new" / "controls.json"
    layout = Layout(path)
    layout.choose(MAZE, "forward", "w")
    layout.choose(MAZE, "forward", "e", more=True)
    layout.choose(MAZE, "fire", "a")
    layout.choose(MAZE, "fire", "pad_r2")
    for found in (layout, Layout(path)):
        keys = {bound.name: bound.keys for bound in found.of(MAZE)}
        assert keys["forward"] == ("w", "e", "pad_up", "stick_up") and keys["fire"] == ("a", "pad_r2") and keys["strafe_left"] == ("pad_l1",)
        bindings(found.of(MAZE))
    layout.choose(MAZE, "use", "w")
    keys = {bound.name: bound.keys for bound in layout.of(MAZE)}
    assert keys["forward"][0] == "e" and keys["use"][0] == "w", "the later choice counts"
    layout.forget("fire")
    layout.forget("nothing")
    assert Layout(path).of(MAZE)[5].keys == ("space", "pad_b") and Layout(path).of(MAZE)[3].keys == ("a", "pad_l1")
    assert [file.name for file in path.parent.iterdir()] == ["controls.json"]


def test_chosen_keys_count_at_once_and_chords_reach_one_tick(keyboard: Keyboard) -> None:
    keyboard.layout.choose(CARD.actions, TURN, "q")
    keyboard.bind(CARD.actions)
    for code in (SCANCODES["q"], W, LEFT):
        keyboard.press(code, 0.0)
    assert keyboard.take().actions == (FORWARD, TURN)
    keyboard.release(SCANCODES["q"], 1.0)
    assert keyboard.take().actions == (FORWARD,)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"format": 2, "keys": {}}', '{"format": 1, "keys": {"a": ["any"]}}', '{"format": 1, "keys": {"a": 3}}', "[" * 9999, "x" * 2_000_000],
)
def test_a_bad_file_is_a_notice_and_the_usual_keys(text: str, tmp_path: Path) -> None:
    path = tmp_path / "controls.json"
    path.write_text(text)
    layout = Layout(path)
    assert layout.notice.startswith("The keys are those of the worlds, for ") and layout.of(CARD.actions)[0].keys[:2] == ("up", "w")


# Analogue actions


CAR = (*(ActionSpec(name, (key,), "", True) for name, key in (("steer_left", "left"), ("steer_right", "right"), ("gas", "up"))), ActionSpec("horn", ("h",), ""))


def test_a_stick_holds_an_analogue_action_partly_and_a_key_wholly() -> None:
    keyboard = Keyboard()
    keyboard.bind(CAR)
    stick, trigger, button = CODES["stick_left"], CODES["pad_r2"], CODES["pad_a"]
    keyboard.tilt({stick: 0.25}, 1.0)
    assert keyboard.take() == Held({"steer_left": 0.25}, 1.0), "far below where a stick counts as a key"
    keyboard.tilt({stick: 0.75, trigger: 0.5}, 2.0)
    keyboard.press(stick, 2.0)
    keyboard.press(button, 2.0)
    assert keyboard.take() == Held({"steer_left": 0.75, "gas": 0.5, "horn": 1.0}, 2.0)
    keyboard.press(LEFT, 3.0)
    assert keyboard.take().actions == {"steer_left": 1.0, "gas": 0.5, "horn": 1.0}, "of two, what asks for more counts"
    keyboard.tilt({stick: 1.0}, 4.0)
    assert keyboard.take().actions == ("steer_left", "horn"), "nothing is held partly"
    keyboard.tilt({}, 5.0)
    for code in (stick, LEFT, button):
        keyboard.release(code, 5.0)
    assert keyboard.take().actions == ()
    keyboard.tilt({trigger: 0.125}, 6.0)
    keyboard.release_all()
    assert keyboard.take().actions == ()
    keyboard.bind(CARD.actions)
    keyboard.tilt({CODES["stick_left"]: 0.3}, 7.0)
    assert keyboard.take() == Held(), "in a world without analogue actions it is not pushed far enough"


def test_a_gamepad_steers_by_its_stick_and_gives_gas_by_its_trigger() -> None:
    keys = gamepad_keys((*CAR, ActionSpec("brake", (), "", True)))
    assert keys["steer_left"] == ("pad_left", "stick_left") and (keys["gas"], keys["brake"], keys["horn"]) == (("pad_r2",), ("pad_l2",), ("pad_a",))


def test_a_tape_keeps_how_far_an_action_is_held() -> None:
    tape = Tape([{"gas": 0.5, "fly": 0.5}])
    tape.bind(CAR)
    assert tape.take() == Held({"gas": 0.5})


def test_how_far_a_stick_is_pushed_does_not_flutter() -> None:
    pads = Gamepads()

    def push(*values: int) -> list[float]:
        told = []
        for value in values:
            pads.handle(pygame.Event(pygame.CONTROLLERAXISMOTION, instance_id=5, axis=0, value=value))
            told.append(pads.tilts[CODES["stick_right"]])
        return told

    assert push(3000, 18000, 18700, 17300, 25000, 32767, 3500) == [0.0, 0.5, 0.5, 0.5, 0.75, 1.0, 0.0]
    assert push(-32768) == [0.0] and pads.tilts[CODES["stick_left"]] == 1.0
    pads.handle(pygame.Event(pygame.CONTROLLERDEVICEREMOVED, instance_id=5))
    assert pads.tilts == {}
    pads.close()


# Gamepads


def test_a_gamepad_is_keys_that_may_be_pulled_out() -> None:
    pygame.display.init()
    pads = Gamepads()

    def does(kind: int, **what: int) -> list[tuple[int, bool]]:
        return pads.handle(pygame.Event(kind, instance_id=5, **what))

    assert does(pygame.CONTROLLERBUTTONDOWN, button=0) == [(CODES["pad_a"], True)] and does(pygame.CONTROLLERBUTTONDOWN, button=0) == []
    assert does(pygame.CONTROLLERBUTTONUP, button=0) == [(CODES["pad_a"], False)] and does(pygame.CONTROLLERBUTTONDOWN, button=5) == []
    moves = [does(pygame.CONTROLLERAXISMOTION, axis=0, value=value) for value in (-9000, -20000, -13000, -20000, 3000, 32767, -32768)]
    left, right = CODES["stick_left"], CODES["stick_right"]
    assert moves == [[], [(left, True)], [], [], [(left, False)], [(right, True)], [(left, True), (right, False)]]
    assert does(pygame.CONTROLLERAXISMOTION, axis=5, value=32767) == [(CODES["pad_r2"], True)]
    assert sorted(does(pygame.CONTROLLERDEVICEREMOVED)) == [(CODES["pad_r2"], False), (left, False)] and does(pygame.CONTROLLERDEVICEREMOVED) == []
    pads.handle(pygame.Event(pygame.CONTROLLERDEVICEADDED, device_index=7))
    assert "cannot be used" in pads.notice
    pads.close()
    pygame.display.quit()
