"""A world as a Gymnasium environment: Gymnasium's own checks pass, and a batch of streams is what its streams are alone."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

import world_model.gym  # noqa: E402
from world_model.card import WorldError  # noqa: E402
from world_model.world import World  # noqa: E402


def test_gymnasium_finds_nothing_wrong(tiny_world_path: Path) -> None:
    env = gymnasium.make("RollingWorld-v0", world=str(tiny_world_path), render_mode="rgb_array")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    assert not [str(warning.message) for warning in said]
    assert env.unwrapped.metadata["render_fps"] == 17.5


def test_an_agent_in_a_world_with_analogue_actions_says_how_far_it_holds_them(tiny_world: World, tmp_path: Path) -> None:
    first, *others = tiny_world.card.actions
    card = replace(tiny_world.card, actions=(replace(first, analogue=True), *others))
    world = World(card, tiny_world.autoencoder, tiny_world.transformer, tiny_world.window, tiny_world.starts)
    env = gymnasium.make("RollingWorld-v0", world=world)
    assert env.action_space == gymnasium.spaces.Box(0, 1, (3,))
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    env.step(np.array([0.25, 0.75, 0.25], np.float32))
    assert env.unwrapped.stream.held.tolist() == [[0.25, 1, 0]]


def test_a_reward_is_a_function_of_the_frame_and_a_start_can_be_chosen(tiny_world_path: Path) -> None:
    env = gymnasium.make("RollingWorld-v0", world=str(tiny_world_path), reward=np.mean, max_episode_steps=2)
    first, _ = env.reset(seed=0, options={"start": 2})
    assert np.array_equal(first, env.unwrapped.world.starts["screens"][2].numpy())
    frame, reward, ended, cut, _ = env.step(np.array([1, 0, 0], np.int8))
    assert reward == pytest.approx(frame.mean()) and not ended and not cut
    assert env.step(np.array([1, 0, 0], np.int8))[3]
    with pytest.raises(WorldError, match="starts 0 to 2"):
        env.reset(options={"start": 3})


def test_a_vector_is_one_batch_of_streams(tiny_world_path: Path) -> None:
    envs = gymnasium.make_vec("RollingWorld-v0", num_envs=3, world=str(tiny_world_path), max_episode_steps=2)
    assert isinstance(envs.unwrapped, world_model.gym.WorldVectorEnv)
    screens, _ = envs.reset(seed=1)
    assert screens in envs.observation_space and len(screens) == 3
    actions = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], np.int8)
    one = [envs.step(actions) for _ in range(3)]
    assert [bool(cut.all()) for _, _, _, cut, _ in one] == [False, True, False]
    envs.unwrapped.reward = np.mean
    with pytest.raises(ValueError, match="one for each frame"):
        envs.step(actions)
    envs.unwrapped.reward = lambda frames: frames.mean((1, 2, 3))
    envs.reset(seed=1)
    assert envs.step(actions)[1].shape == (3,)
    again, _ = envs.reset(seed=1)
    assert np.array_equal(screens, again) and np.array_equal(envs.step(actions)[0], one[0][0])


def test_what_one_agent_does_is_nothing_to_the_others(tiny_world: World) -> None:
    frames = []
    for other in ([0, 0, 0], [0, 1, 0]):
        envs = world_model.gym.WorldVectorEnv(2, tiny_world)
        envs.reset(seed=1)
        for second in ([0, 0, 0], other):
            seen = envs.step(np.array([[1, 0, 0], second], np.int8))[0]
        frames.append(seen)
    (a, b), (same, changed) = frames
    assert np.array_equal(a, same) and not np.array_equal(b, changed)


def test_without_gymnasium_there_is_a_clear_error_and_nothing_else_needs_it() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "import world_model.world, world_model.training.train, world_model.training.collect, world_model.evaluation.evaluate\n"
        "try: import world_model.gym\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "Worlds as Gymnasium environments need gymnasium; install it with pip install -e '.[gym]'.\n", done.stderr
