"""Real games as sources of worlds: keys files, any Gymnasium environment as a game, collecting from it, and the recipes that follow from what was collected."""

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

import main
from world_model.card import ActionSpec, WorldError, read_card
from world_model.context import ContextConfig
from world_model.evaluation.real import RealGame, has_real
from world_model.real.environment import Environment, _fit
from world_model.real.game import GameError, Source, share
from world_model.real.keys import Keys, KeysError
from world_model.real.origin import Origin, OriginError
from world_model.real.restless import Restless
from world_model.real.sources import SOURCES
from world_model.session import Session
from world_model.stream import WindowConfig
from world_model.training.collect import collect
from world_model.training.data import Clips
from world_model.training.distill import DistillRecipe
from world_model.training.judge import JudgeRecipe
from world_model.training.recipe import RECIPES, WorldRecipe, check, derive, find_recipe, recalling
from world_model.training.rollout import RolloutRecipe
from world_model.training.train import played_model
from world_model.world import World

gymnasium = pytest.importorskip("gymnasium")
from gymnasium import spaces  # noqa: E402

WALK = """
noop = 0
[[actions]]
name = "left"
keys = ["left", "a"]
index = 1
[[actions]]
name = "right"
keys = ["right"]
index = 2
[[combinations]]
held = ["right", "left"]
index = 3
"""
SINGLY = WALK.split("[[combinations]]")[0]
FREE = SINGLY.replace("noop = 0", "")


def keys(tmp_path: Path, text: str) -> Keys:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return Keys.read(path)


def pushes(tmp_path: Path, *meanings: str, rest: str = "") -> Keys:
    """Return keys of the actions a, b, ... with these meanings."""
    actions = (f'[[actions]]\nname = "{name}"\nkeys = ["{name}"]\n{meaning}\n' for name, meaning in zip("abc", meanings, strict=False))
    return keys(tmp_path, rest + "\n" + "".join(actions))


def test_a_discrete_environment_is_given_the_largest_combination_that_is_held(tmp_path: Path) -> None:
    translate = keys(tmp_path, WALK).translate(spaces.Discrete(4))
    assert [translate(held) for held in ((), ("left",), ("right",), ("left", "right"))] == [0, 1, 2, 3]
    translate = keys(tmp_path, SINGLY).translate(spaces.Discrete(4))
    assert translate(("right", "left")) == 1


def test_vectors_are_put_together_from_what_is_held(tmp_path: Path) -> None:
    bits = pushes(tmp_path, "bits = [0, 2]", "bits = [1]").translate(spaces.MultiBinary(3))
    assert bits(("a", "b")).tolist() == [1, 1, 1] and bits(()).tolist() == [0, 0, 0] and bits(("a",)).dtype == np.int8
    many = pushes(tmp_path, "axis = 0\nvalue = 2", "axis = 0\nvalue = 0", rest="noop = [1, 1]").translate(spaces.MultiDiscrete([3, 2]))
    assert many(("a",)).tolist() == [2, 1] and many(("b", "a")).tolist() == [0, 1] and many(()) in spaces.MultiDiscrete([3, 2])
    space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 1], np.float32))
    box = pushes(tmp_path, "axis = 0\nvalue = -1.0", "axis = 0\nvalue = 0.75", "axis = 1\nvalue = 1").translate(space)
    assert box(("a", "b")).tolist() == [-0.25, 0] and box(("a", "c")).tolist() == [-1, 1] and box(("c",)) in space


def test_a_stick_gives_a_part_of_a_value(tmp_path: Path) -> None:
    space, half = spaces.Box(-1, 1, (2,)), {"a": 0.5, "c": 1.0}
    box = pushes(tmp_path, "axis = 0\nvalue = -1\nanalogue = true", "axis = 0\nvalue = 1\nanalogue = true", "axis = 1\nvalue = 0.5")
    assert [action.analogue for action in box.specs] == [True, True, False]
    assert box.translate(space)(half).tolist() == [-0.5, 0.5] and box.translate(space)(("a",)).tolist() == [-1, 0]
    with pytest.raises(KeysError, match="Analogue actions are for Box environments"):
        pushes(tmp_path, "index = 0\nanalogue = true", rest="noop = 1").translate(spaces.Discrete(2))


@pytest.mark.parametrize(
    ("text", "space", "words"),
    [
        ("noop = ", spaces.Discrete(4), "is not right"),
        (WALK + "colour = 3", spaces.Discrete(4), "unknown field `colour`"),
        (WALK.replace("noop = 0", ""), spaces.Discrete(4), "needs a noop"),
        (WALK, spaces.Discrete(3), "takes the numbers 0 to 2; the keys file gives it 3"),
        (WALK.replace('"right", "left"', '"right", "jump"'), spaces.Discrete(4), "combines 'jump'"),
        (WALK.replace('name = "right"', 'name = "left"'), spaces.Discrete(4), "names an action twice"),
        (WALK, spaces.MultiBinary(3), "Combinations are for Discrete"),
        (SINGLY, spaces.MultiBinary(3), "needs bits; the keys file has index"),
        (SINGLY.replace("index", "value = 1\naxis"), spaces.Box(-1, 1, (3,)), "so the noop needs as many; the keys file has 0"),
        (FREE.replace("index", "axis"), spaces.Box(-1, 1, (3,)), "needs axis and value; the keys file has axis"),
        (FREE.replace("index", "value = 3\naxis"), spaces.Box(-1, 1, (3,)), "lies from -1 to 1"),
        (FREE.replace("index", "value = 1\naxis"), spaces.Box(-1, 1, (2,)), "means place 2"),
        (FREE, spaces.Text(3), "can be played with keys"),
    ],
)
def test_a_keys_file_that_does_not_fit_is_refused_in_one_sentence(text: str, space: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=words) as refused:
        keys(tmp_path, text).translate(space)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


class Counting(gymnasium.Env):
    """Shows how many steps were made in an episode, and the action before; ends after `end` steps."""

    metadata = {"render_modes": [], "render_fps": 40}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (24, 32, 1), np.uint8)
    action_space = spaces.Discrete(4)

    def __init__(self, end: int = 6) -> None:
        self.end = end

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.number = 0
        return self._show(0), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.number += 1
        return self._show(action), 0.0, self.number == self.end, False, {}

    def _show(self, action: int) -> np.ndarray:
        return np.full((24, 32, 1), 10 * self.number + action, np.uint8)


@pytest.fixture(autouse=True)
def counting() -> Any:
    gymnasium.register("Counting-v0", Counting, max_episode_steps=3)
    yield
    del gymnasium.registry["Counting-v0"]


def test_an_environment_shows_the_frame_that_the_action_led_to(tmp_path: Path) -> None:
    game = Environment("Counting-v0", keys(tmp_path, WALK), (32, 48))
    assert (game.frame_skip, game.origin.fps, game.origin.name, game.origin.title) == (2, 20.0, "counting", "Counting")
    frames = [game.reset(0), *(game.step(held) for held in (("left",), ("right",), ("left", "right"), (), ("left",)))]
    assert frames[0].shape == (32, 48, 3)
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 21, 42, 63, 0, 21], "time limits are lifted; the next episode follows the end"
    assert game.tally == Counter({"episodes ended": 1})
    game = Environment("Counting-v0", keys(tmp_path, "restart = false\n" + WALK), (32, 48))
    assert game.reset(0) is not None and [game.step(()) is None for _ in range(4)] == [False, False, False, True]


class Drawing(gymnasium.Env):
    """Observes numbers and draws the two values that it was given last."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    told = np.zeros(2, np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.told = np.zeros(2, np.float32)
        return self.told, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.told = action
        return action, 0.0, False, False, {}

    def render(self) -> np.ndarray:
        return np.full((24, 32, 3), [*np.round(100 + 80 * self.told), 0], np.uint8)


class Buttons(Drawing):
    action_space = spaces.MultiBinary(2)


STICKS = '[[actions]]\nname = "left"\nkeys = ["a"]\naxis = 0\nvalue = -1\nanalogue = true\n[[actions]]\nname = "up"\nkeys = ["b"]\naxis = 1\nvalue = 1\n'
BITS = '[[actions]]\nname = "left"\nkeys = ["a"]\nbits = [0]\n[[actions]]\nname = "up"\nkeys = ["b"]\nbits = [1]\n'


@pytest.mark.parametrize(("env", "text", "shares", "push"), [(Drawing, STICKS, 9, (-80, 80)), (Buttons, BITS, 2, (80, 80))])
def test_what_is_drawn_under_vectors_of_actions_is_collected_with_how_far_they_were_held(
    env: Any, text: str, shares: int, push: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gymnasium.register("Drawn-v0", env)
    (tmp_path / "keys.toml").write_text(text)
    command = ["collect", "--env", "Drawn-v0", "--keys", str(tmp_path / "keys.toml"), "--out", str(tmp_path / "data"), "--size", "32x48"]
    assert main.main([*command, "--frames", "1500", "--held-out-frames", "80"]) == 0
    del gymnasium.registry["Drawn-v0"]
    clips = Clips.load(tmp_path / "data" / "train")
    assert len(set(clips.actions[:, 0].tolist())) == shares and set(clips.actions[:, 1].tolist()) == {0, 1}
    assert np.array_equal(clips.frames[:, 0, 0, :2], np.round(100 + clips.actions * push).astype(np.uint8))
    recipe = find_recipe("", tmp_path / "data")
    assert [action.analogue for action in recipe.origin.actions] == [shares > 2, False]
    held_or_not = msgspec.structs.replace(recipe.origin, actions=tuple(msgspec.structs.replace(a, analogue=not a.analogue) for a in recipe.origin.actions))
    with pytest.raises(ValueError, match="collected with other analogue actions"):
        check(held_or_not, clips)
    with pytest.raises(OriginError, match="holds sessions of drawn with other actions"):
        held_or_not.write(tmp_path / "data")


@pytest.mark.parametrize(("height", "width", "size"), [(96, 96, (112, 112)), (400, 600, (96, 128)), (210, 160, (128, 96)), (8, 800, (32, 512))])
def test_frames_keep_the_shape_of_the_picture(height: int, width: int, size: tuple[int, int]) -> None:
    assert _fit(height, width) == size


def test_a_restless_player_tries_everything() -> None:
    player = Restless([ActionSpec(name, (), "") for name in "abc"], np.random.default_rng(0))
    held = [player.act(None, None) for _ in range(3000)]
    assert {frozenset(), frozenset("a"), frozenset("ab"), frozenset("abc")} <= set(held)
    lengths = np.diff(np.flatnonzero([True, *(a != b for a, b in itertools.pairwise(held))]))
    assert lengths.min() == 1 and lengths.max() >= 20
    player = Restless([ActionSpec("a", (), "", True), ActionSpec("b", (), "")], np.random.default_rng(0))
    held = [player.act(None, None) for _ in range(3000)]
    assert {share(actions, "a") for actions in held} == {step / 8 for step in range(9)} and {share(actions, "b") for actions in held} == {0, 1}


def test_collecting_goes_on_where_it_stopped_and_the_recipe_follows_from_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys.toml").write_text(WALK)
    command = ["collect", "--env", "Counting-v0", "--keys", str(tmp_path / "keys.toml"), "--out", str(tmp_path / "data"), "--held-out-frames", "9"]
    assert main.main([*command, "--frames", "30", "--size", "32x48"]) == 0
    first = (tmp_path / "data" / "train" / "00000" / "digests.txt").read_text()
    assert main.main([*command, "--frames", "50", "--size", "32x48"]) == 0
    assert (tmp_path / "data" / "train" / "00000" / "digests.txt").read_text() == first
    clips = Clips.load(tmp_path / "data" / "train")
    assert clips.frames.shape == (50, 32, 48, 3) and clips.bounds.tolist() == [0, 30, 50] and not clips.knows_states
    meant = clips.actions @ np.array([1, 2])
    shown = clips.frames[:, 0, 0, 0]
    assert all(value % 10 == action for value, action in zip(shown, meant, strict=True) if value), "action n leads from frame n - 1 to frame n"
    assert json.loads((tmp_path / "data" / "train.json").read_text())["happened"]["episodes ended"] > 0
    assert Session(tmp_path / "data" / "held_out" / "00000").header["world"] == "counting"

    recipe = find_recipe("", tmp_path / "data")
    check(recipe.origin, clips)
    assert recipe.origin == Origin.read(tmp_path / "data") and recipe.student.model.num_actions == 2
    assert find_recipe("other", tmp_path / "data").origin.name == "other"
    with pytest.raises(ValueError, match="have other actions or another frame size than maze"):
        check(RECIPES["maze"]().origin, clips)
    with pytest.raises(WorldError, match="There is no recipe for 'other'"):
        find_recipe("other", tmp_path)
    with pytest.raises(ValueError, match=r"No session in .* is 100 frames long"):
        clips.starts(100)
    assert main.main([*command, "--size", "48x48"]) == 2
    assert "holds sessions of counting with other actions, frame size" in capsys.readouterr().err


def small(origin: Origin) -> WorldRecipe:
    """Return the recipe that fits a world, with networks and steps small enough for a test."""
    recipe = derive(origin)
    sizes = replace(recipe.autoencoder.model, channels=(32,), encoder_blocks=1, decoder_blocks=1)
    model = replace(recipe.student.model, dim=48, ffn_dim=96, num_heads=2, num_layers=1, freq_dim=32, motion_channels=16, motion_blocks=1)
    window = WindowConfig((1.0, 0.7, 0.4), context=ContextConfig(sink=2, cache=12, attention=15))
    return replace(
        recipe,
        autoencoder=replace(recipe.autoencoder, model=sizes, steps=4, batch=4),
        student=replace(recipe.student, model=model, window=window, steps=2, batch=2, rollout=RolloutRecipe(batch=2, past=12, shortest=3, longest=6)),
        distill=DistillRecipe(batch=2, past=12, shortest=3, longest=6, steps=1, critic_steps=1, known=2),
        judge=JudgeRecipe(steps=2, batch=4),
        num_starts=3,
    )


def test_from_an_environment_to_a_world_that_can_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys.toml").write_text(WALK)
    told = ["--env", "Counting-v0", "--keys", str(tmp_path / "keys.toml"), "--out", str(tmp_path / "data"), "--size", "32x48"]
    assert main.main(["collect", *told, "--frames", "120", "--held-out-frames", "80"]) == 0
    monkeypatch.setattr("world_model.training.recipe.derive", small)
    assert main.main(["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "made")]) == 0
    world = World.load(tmp_path / "made" / "counting.safetensors", "cpu")
    assert (world.card.title, world.card.data_source, world.card.fps) == ("Counting", "Gymnasium Counting-v0", 20.0)
    assert [(action.name, action.keys, action.label) for action in world.card.actions] == [("left", ("left", "a"), "Left"), ("right", ("right",), "Right")]
    assert "psnr_free_running_8" in world.card.figures and not any("position" in name for name in world.card.figures), "nobody knows where one stands"
    assert world.stream(seed=1).tick(["left"]).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("maze --env Counting-v0", "Say which game"),
        ("--env Counting-v0", "Say which game"),
        ("lunar", "There is no collector for 'lunar'; known are maze, arena, racing"),
        ("maze --fps 3", "Frame size and rate of maze are fixed"),
        ("maze --frames 0", "--frames is 0"),
        ("--env Counting-v0 --keys none.toml", "Cannot read the keys file none.toml"),
        ("--env Counting-v0 --keys {keys} --size 33x48", "--size is 33x48"),
        ("--env Nowhere-v0 --keys {keys}", "Gymnasium cannot make 'Nowhere-v0'"),
        ("--env CartPole-v1 --keys {keys}", "takes the numbers 0 to 1"),
        ("--env Counting-v0 --keys {odd}", "is not the name of a key"),
    ],
)
def test_what_cannot_be_collected_is_refused(arguments: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys.toml").write_text(WALK)
    (tmp_path / "odd.toml").write_text(WALK.replace('"right"]', '"middle"]', 1))
    told = arguments.format(keys=tmp_path / "keys.toml", odd=tmp_path / "odd.toml").split()
    assert main.main(["collect", "--out", str(tmp_path / "out"), *told]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_every_frame_size_has_a_recipe() -> None:
    origin = SOURCES["maze"].origin
    for height, width in ((32, 32), (96, 96), (112, 112), (96, 128), (128, 96), (80, 144), (240, 320), (512, 512)):
        recipe = derive(msgspec.structs.replace(origin, height=height, width=width))
        _, rows, columns = recipe.autoencoder.model.latent_shape
        patch, places = recipe.student.model.patch_size, recipe.student.model.places
        assert places is not None and (rows, columns) == (patch[0] * places[0], patch[1] * places[1])
        assert 12 <= places[0] * places[1] <= 48 and max(patch) <= 4 * min(patch), (height, width, patch)
    shipped = read_card(Path(main.__file__).parent / "assets" / "worlds" / "maze.safetensors")
    recipe = RECIPES["maze"]()
    assert recipe.student.model.patch_size == tuple(shipped.transformer["patch_size"]), "the shipped maze can be trained on"
    played = played_model(recipe).recall_least
    assert shipped.transformer["recall_least"] == played > recipe.student.model.recall_least, "in play it takes more of what it remembers"
    assert played_model(recalling(recipe, 0)).recall_least == 0


def test_an_origin_that_is_not_valid_is_refused(tmp_path: Path) -> None:
    origin = SOURCES["arena"].origin
    with pytest.raises(OriginError, match="multiple of 16"):
        msgspec.structs.replace(origin, width=100).write(tmp_path)
    origin.write(tmp_path)
    assert Origin.read(tmp_path) == origin
    (tmp_path / "world.json").write_text('{"name": 3}')
    with pytest.raises(OriginError, match="does not describe a world"):
        Origin.read(tmp_path)


@pytest.mark.parametrize(("name", "needs", "happened"), [("maze", "vizdoom", ()), ("arena", "vizdoom", ("shots", "hits")), ("racing", "Box2D", ())])
def test_a_source_plays_and_the_same_seed_plays_the_same(name: str, needs: str, happened: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip(needs)
    source = SOURCES[name]
    game, plays = source.open(), []
    for _ in range(2):
        player, frames = source.player(np.random.default_rng(3)), [game.reset(3)]
        for _ in range(80):
            frame = game.step(player.act(game, frames[-1]))
            assert frame is not None and game.state is not None
            frames.append(frame)
        plays.append(np.stack(frames))
        assert all(game.tally[event] for event in happened), game.tally
    assert plays[0].shape == (81, source.origin.height, source.origin.width, 3)
    assert np.array_equal(*plays)
    game.close()


@pytest.mark.parametrize("name", ["arena", "racing"])
def test_the_real_game_is_a_yardstick_for_every_shipped_world(name: str) -> None:
    source = SOURCES[name]
    pytest.importorskip(source.needs)
    names = source.origin.action_names
    world: Any = SimpleNamespace(card=source.origin, action_vector=lambda held: np.array([name in held for name in names], np.float32))
    assert has_real(world)
    real = RealGame(world)
    clips = real.clips(2, 12, [[[names[0]]] * 5, [[]] * 5])
    assert clips.frames.shape == (24, source.origin.height, source.origin.width, 3) and clips.knows_states
    assert clips.actions[7:12, 0].all() and not clips.actions[19:].any()
    turned = np.diff(np.unwrap(np.radians(clips.states[:, 2])))
    assert turned[8:11].sum() > 0.1, "the first action turns to the left"
    real.close()


def test_a_stick_steers_the_car_as_far_as_it_is_pushed() -> None:
    pytest.importorskip("Box2D")
    racing, angles = SOURCES["racing"].open(), []
    for far in (0.25, 0.5, 1.0):
        racing.reset(3)
        racing.step({"gas": 1.0})
        for _ in range(12):
            racing.step({"gas": 1.0, "steer_left": far})
        assert racing.state is not None
        angles.append(racing.state["angle"])
    turned = np.diff(angles)
    assert (turned > 1).all(), angles
    racing.close()


def test_the_arena_shows_death_and_the_next_life() -> None:
    pytest.importorskip("vizdoom")
    arena = SOURCES["arena"].open()
    frames = [arena.reset(1)]
    while not arena.tally["deaths"]:
        frames.append(arena.step(()))  # whoever stands and waits is killed
        assert len(frames) < 2000
    dying = np.stack([arena.step(()) for _ in range(8)]).astype(np.float32)
    assert dying[-2].std((0, 1)).max() < 2 and dying[-2, ..., 1:].max() < 5, "the picture sinks into red"
    assert dying[-1].std() > 10 and arena.state is not None and arena.state["health"] == 100
    arena.close()


def test_a_game_whose_package_is_missing_is_refused(tmp_path: Path) -> None:
    def missing() -> Any:
        raise ImportError

    source = SOURCES["racing"]
    with pytest.raises(GameError, match="install Box2D"):
        collect(Source(source.origin, missing, source.player, source.needs), tmp_path, 10, 10)
