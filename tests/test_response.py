"""The response of a world: what the figures mean, and that a rollback shows in them."""

import copy
import json

import numpy as np
import pytest
import torch
from tiny import make_world

from world_model.evaluation.response import AFTER, difference, figures, measure, run, situations
from world_model.world import World


def test_figures_of_known_curves() -> None:
    step = np.array([0.0, 0.0, 0.4] + [1.0] * (AFTER - 3))
    told = figures(np.stack([step, np.ones(AFTER), np.zeros(AFTER)]), 0.1, np.array([True, True, False]))
    assert told["next_frame_share"] == 0.5
    assert told["first_frames"] == pytest.approx((3 + 1 + AFTER + 1) / 3, abs=1e-3)
    assert told["half_frames"] == pytest.approx((4 + 1 + 1) / 3, abs=1e-3)  # a curve that stays zero has reached half of zero at once
    assert told["curve"][2] == pytest.approx(1.4 / 3, abs=1e-5)


def test_difference_is_in_units_of_the_full_range() -> None:
    black, white = np.zeros((2, 3, 4, 3), np.uint8), np.full((2, 3, 4, 3), 255, np.uint8)
    assert difference(black, white).tolist() == [1.0, 1.0] and difference(white, white).tolist() == [0.0, 0.0]


def test_every_binding_is_measured_and_entry_is_the_slowest(tiny_world: World) -> None:
    report = measure(tiny_world, list(situations(tiny_world, 4)))
    assert list(report["bindings"]) == ["at entry", "late", "rollback 1", "rollback 2", "rollback 3"]
    first = {name: row["curve"][0] for name, row in report["bindings"].items()}
    assert first["at entry"] < first["late"], first
    assert all(len(row["curve"]) == AFTER and row["psnr_at_8"] is None for row in report["bindings"].values())


def test_other_noise_is_no_response(tiny_world: World) -> None:
    """A world that ignores its actions changes under a rollback all the same, by its noise."""
    model = copy.deepcopy(tiny_world.transformer)
    for parameter in model.action_embedding[2].parameters():
        torch.nn.init.zeros_(parameter)
    deaf = World(tiny_world.card, tiny_world.autoencoder, model, tiny_world.window, tiny_world.starts)
    report = measure(deaf, list(situations(deaf, 2)))
    assert {row["next_frame_share"] for row in report["bindings"].values()} == {0.0}
    assert report["bindings"]["late"]["noise_share"] == 0.0 < report["bindings"]["rollback 3"]["noise_share"]


def test_the_command(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.safetensors"
    make_world().save(path)
    assert run(world=str(path), trials=2, json=True, plot=tmp_path / "curves.png", device="cpu") == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 2
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert run(world=str(path), trials=1, device="cpu") == 0
    assert "rollback 3" in capsys.readouterr().out
