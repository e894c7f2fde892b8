import os

# Before anything imports pygame: no window, no sound.
os.environ["SDL_VIDEODRIVER"] = "dummy"
os.environ["SDL_AUDIODRIVER"] = "dummy"

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny import make_world

from world_model.world import World

# A busy machine is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_world_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worlds") / "tiny.safetensors"
    make_world().save(path)
    return path


@pytest.fixture(scope="session")
def tiny_world(tiny_world_path: Path) -> World:
    return World.load(tiny_world_path, device="cpu", dtype=torch.float32)
