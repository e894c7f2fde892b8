"""Training at toy size: it learns what actions do, resumes without a trace, and begins from a given world."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tiny import make_world
from torch import Tensor

from world_model.autoencoder import Autoencoder, AutoencoderConfig
from world_model.card import WorldError
from world_model.context import ContextConfig
from world_model.schedule import add_noise
from world_model.session import SessionError, SessionWriter
from world_model.stream import RollingWindow, WindowConfig, histories
from world_model.training import student as student_stage
from world_model.training.autoencoder import AutoencoderRecipe, gradients, reconstruct, train_autoencoder
from world_model.training.data import Clips
from world_model.training.distill import Distillation, DistillRecipe, distill
from world_model.training.optimizer import MuonAdamW
from world_model.training.recall import RecallRecipe, blurred_places, guess_loss, memory_loss, reckon_loss, train_recall
from world_model.training.recipe import RECIPES
from world_model.training.rollout import Rollout, RolloutRecipe, Streams
from world_model.training.run import Run, learning_rate
from world_model.training.sharpen import sharpen
from world_model.training.student import BEFORE_ROLLOUTS, LatentClips, Layout, StudentRecipe, clip_loss, train_student
from world_model.training.thin import ThinRecipe, choose, shown, thin, without
from world_model.training.thin import run as thin_world
from world_model.training.train import adopt
from world_model.training.train import run as train_world
from world_model.transformer import Transformer, TransformerConfig
from world_model.world import World

SIZE, STEP, TINT = 32, 4, np.array([[0, 0, 0], [120, 0, 0], [0, 0, 120]], np.uint8)  # a turn shifts the picture by STEP pixels and tints it
AUTOENCODER = AutoencoderRecipe(AutoencoderConfig(SIZE, SIZE, (32, 32), 8, 4, 1, 1), steps=30, batch=8, settle_from=1.0)
STUDENT = StudentRecipe(
    model=TransformerConfig(dim=64, ffn_dim=128, num_heads=2, num_layers=2, patch_size=(2, 2), places=(2, 2), motion_channels=16, freq_dim=32, num_actions=2),
    window=WindowConfig(ladder=(1.0, 0.7, 0.4), context=ContextConfig(sink=2, cache=6, attention=9)),
    steps=6,
    batch=4,
    rollout=RolloutRecipe(batch=4, past=6, shortest=3, longest=6),
    rollout_from=0.0,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Return sessions of a strip of stripes, along which the player steps left or right; it turns red or blue while one of two keys is held."""
    folder, rng = tmp_path_factory.mktemp("sessions"), np.random.default_rng(0)
    strip = rng.integers(0, 128, (1, 64, 3), np.uint8).repeat(SIZE, 0).repeat(4, 1)
    header = {"fps": 10.0, "width": SIZE, "height": SIZE, "actions": ["left", "right"]}
    for session in range(4):
        place = int(rng.integers(strip.shape[1]))
        with SessionWriter(folder / f"{session}", header, lossless=True) as writer:
            held: list[str] = []
            for frame in range(80):
                if frame % 6 == 0:
                    held = [[], ["left"], ["right"]][int(rng.integers(3))]
                place += STEP * (("right" in held) - ("left" in held))
                state = {"x": 0.0, "y": float(-place % strip.shape[1]), "angle": 0.0}
                writer.append(np.roll(strip, -place, 1)[:, :SIZE] + TINT[("left" in held) + 2 * ("right" in held)], held, state=state)
    return Clips.load(folder)


@pytest.fixture(scope="module")
def autoencoder(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    return train_autoencoder(AUTOENCODER, clips, clips, tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture(scope="module")
def latents(clips: Clips, autoencoder: Autoencoder, tmp_path_factory: pytest.TempPathFactory) -> LatentClips:
    return LatentClips.encode(clips, autoencoder, tmp_path_factory.mktemp("latents") / "latents.pt")


def test_latents_are_made_anew_for_other_clips_or_another_autoencoder(clips: Clips, autoencoder: Autoencoder, tmp_path: Path) -> None:
    path = tmp_path / "latents.pt"

    def written(some: Clips, encoder: Autoencoder) -> int:
        latents = LatentClips.encode(some, encoder, path)
        assert len(latents.latents) == len(some.frames)
        return path.stat().st_mtime_ns

    first = written(clips, autoencoder)
    assert written(clips, autoencoder) == first, "they are made once"
    fewer = replace(clips, frames=clips.frames[:80], actions=clips.actions[:80], states=clips.states[:80], bounds=clips.bounds[:2])
    second = written(fewer, autoencoder)
    other = copy.deepcopy(autoencoder)
    next(other.parameters()).data.add_(0.01)
    assert len({first, second, written(fewer, other)}) == 3


def test_places_are_known_where_every_session_tells_them(clips: Clips) -> None:
    assert clips.knows_states and not replace(clips, states=np.zeros_like(clips.states)).knows_states
    recorded = clips.states.copy()
    recorded[-80:] = 0
    assert not replace(clips, states=recorded).knows_states


def test_clips_are_what_was_recorded(clips: Clips) -> None:
    assert clips.frames.shape == (320, SIZE, SIZE, 3)
    assert clips.vocabulary == ("left", "right")
    row = int(np.flatnonzero(clips.actions[1:80, 0])[0]) + 1
    assert np.array_equal(clips.frames[row][:, STEP:, 1], clips.frames[row - 1][:, :-STEP, 1]), "action n leads from frame n - 1 to frame n"


def test_no_sessions(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="There are no sessions"):
        Clips.load(tmp_path)


def test_the_latents_have_unit_variance(latents: LatentClips) -> None:
    assert float(latents.latents.float().square().mean()) == pytest.approx(1, abs=0.1)


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the next run die after so many checkpoints; every step writes one."""
    from world_model.training import run

    original, left = run.Run.save, [after]

    def save(self: run.Run) -> None:
        original(self)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.Run, "save", save)
    monkeypatch.setattr(run.Run.__init__, "__kwdefaults__", {"every_s": -1.0})


def test_a_killed_student_goes_on_as_if_nothing_had_happened(
    latents: LatentClips, autoencoder: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_student(STUDENT, latents, latents, autoencoder, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_student(STUDENT, latents, latents, autoencoder, tmp_path / "cut")
    resumed = train_student(STUDENT, latents, latents, autoencoder, tmp_path / "cut")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_killed_autoencoder_goes_on_settling_about_the_same_latents(clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(AUTOENCODER, steps=6, settle_from=0.5)
    whole = train_autoencoder(recipe, clips, clips, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train_autoencoder(recipe, clips, clips, tmp_path / "cut")
    resumed = train_autoencoder(recipe, clips, clips, tmp_path / "cut")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_decoder_is_sharpened_while_the_latents_stay(clips: Clips, autoencoder: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sharpened(folder: str, price: float = 0.1) -> Autoencoder:
        model = copy.deepcopy(autoencoder)
        recipe = replace(AUTOENCODER, steps=32, sharpen_share=1.0, sharpen_batch=8, doubt_price=price)
        sharpen(recipe, model, clips, clips, tmp_path / folder)
        return model

    sharp = sharpened("whole")
    for (name, now), was in zip(sharp.state_dict().items(), autoencoder.state_dict().values(), strict=True):
        assert torch.equal(now, was) != name.startswith("decoder"), name
    frames = clips.frames[::40]
    detail = {price: sum(float(g.square().mean()) for g in gradients(torch.from_numpy(reconstruct(model, frames)).permute(0, 3, 1, 2).float()))
              for price, model in ((0.0, sharpened("alone", 0.0)), (0.1, sharp))}  # fmt: skip
    assert detail[0.1] > 1.02 * detail[0.0]
    with monkeypatch.context() as patch:
        interrupted(patch, 16)
        with pytest.raises(KeyboardInterrupt):
            sharpened("cut")
    for (name, a), b in zip(sharp.state_dict().items(), sharpened("cut").state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 1}, tmp_path / "stage.pt")
    with pytest.raises(WorldError, match="another version"):
        Run(tmp_path, "stage", 2, {"part": torch.nn.Linear(1, 1)})
    Run(tmp_path, "other", 2, {"part": torch.nn.Linear(1, 1)}).save()
    with pytest.raises(WorldError, match=r"other\.pt is of networks of other sizes"):
        Run(tmp_path, "other", 2, {"part": torch.nn.Linear(2, 1)})


def test_latents_are_held_while_the_autoencoder_settles(clips: Clips, autoencoder: Autoencoder, tmp_path: Path) -> None:
    frames = torch.from_numpy(clips.frames[::40].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    gone = []
    for price in (0.0, 100.0):
        recipe = replace(AUTOENCODER, settle_from=0.0, hold_price=price, steps=10)
        settled = train_autoencoder(recipe, clips, clips, tmp_path / f"{price}", autoencoder.state_dict())
        with torch.no_grad():
            gone.append(float((settled.encoder(frames) - autoencoder.encoder(frames)).square().mean()))
    assert gone[1] < gone[0] / 2


def test_a_student_is_kept_as_it_was_before_its_first_rollout(latents: LatentClips, autoencoder: Autoencoder, tmp_path: Path) -> None:
    trained = train_student(replace(STUDENT, rollout_from=0.5), latents, latents, autoencoder, tmp_path / "late")
    kept = torch.load(tmp_path / "late" / BEFORE_ROLLOUTS, weights_only=True)
    clips_alone = train_student(replace(STUDENT, steps=3, rollout_from=1.0), latents, latents, autoencoder, tmp_path / "never")
    trained_for = [sum(float((a - b).abs().sum()) for a, b in zip(kept.values(), model.state_dict().values(), strict=True)) for model in (clips_alone, trained)]
    assert trained_for[0] < trained_for[1], "three steps are nearer to three than to six"
    assert not (tmp_path / "never" / BEFORE_ROLLOUTS).exists()


def test_two_ranks_train_as_one(clips: Clips, latents: LatentClips, autoencoder: Autoencoder, tmp_path: Path) -> None:
    """Two processes that share every batch come to the weights of one that has it all, but for the order of sums; also with parameters shared out."""
    (tmp_path / "sessions").symlink_to(clips.folder)
    torch.save(autoencoder.state_dict(), tmp_path / "autoencoder.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(Path(__file__).parent / "rank.py"), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=58)
    assert ended.returncode == 0, ended.stderr[-4000:]
    together = torch.load(tmp_path / "student.pt", weights_only=True)
    apart = {}
    for name, batch in (("whole batch", STUDENT.batch), ("half of it", STUDENT.batch // 2)):
        recipe = replace(STUDENT, batch=batch, rollout=replace(STUDENT.rollout, batch=batch))
        alone = train_student(recipe, latents, latents, autoencoder, tmp_path / name).state_dict()
        torch.manual_seed(0)
        begun = Transformer(STUDENT.model).state_dict()
        apart[name] = float(np.mean([(together[n] - alone[n]).norm() / (alone[n] - begun[n]).norm().clamp(min=1e-6) for n in begun]))
    assert apart["whole batch"] < 0.1 and apart["half of it"] > 0.4, apart
    sharded = torch.load(tmp_path / "sharded.pt", weights_only=True)
    assert len(sharded["kept"]) == 3 and (sharded["kept"] < 0.6).all(), "each process keeps about half of all parameters and moments"
    alike, parts, start = (torch.cat([state[n].flatten() for n in begun]) for state in (sharded["alike"], sharded["parts"], begun))
    assert float((alike - parts).norm() / (alike - start).norm()) < 0.1, float((alike - parts).norm() / (alike - start).norm())


def test_one_process_shares_nothing_out(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="Only several processes can share the parameters out"):
        train_world(world="maze", data=tmp_path, out=tmp_path, shard=True)


def test_a_run_begins_from_given_weights(latents: LatentClips, autoencoder: Autoencoder, tmp_path: Path) -> None:
    torch.manual_seed(5)
    given = Transformer(STUDENT.model).state_dict()
    student = train_student(replace(STUDENT, steps=0), latents, latents, autoencoder, tmp_path, given)
    assert all(torch.equal(a, b) for a, b in zip(student.state_dict().values(), given.values(), strict=True))


def test_a_run_begins_from_a_world_with_other_actions() -> None:
    """An action of the same name does what it did, one that is new does nothing."""
    given, recipe = World.load("maze", "cpu", torch.float32), RECIPES["arena"]()
    model = Transformer(recipe.student.model)
    model.load_state_dict(adopt(given, recipe))
    history = recipe.student.model.action_history
    held = {name: index for index, name in enumerate(recipe.origin.action_names)}

    def embedded(network: Transformer, action: int | None) -> torch.Tensor:
        actions = torch.zeros(history, network.config.num_actions)
        if action is not None:
            actions[-1, action] = 1
        return network.action_embedding(actions.flatten())

    assert torch.equal(embedded(model, held["turn_left"]), embedded(given.transformer, given.card.action_names.index("turn_left")))
    assert torch.equal(embedded(model, held["shoot"]), embedded(given.transformer, None))


def test_rollouts_compare_every_pass_with_the_frames_of_its_own_time(latents: LatentClips) -> None:
    """A model that knows the truth has no loss; one that is a frame late has."""

    class Oracle(Transformer):
        def forward(self, x, sigma, attend, actions=None, text=None, wanted=None, **moved):
            window = rollout.window
            first = window.start - int(x.shape[1] > len(window.levels)) + lag
            rows = rollout.rows[:, None] + first + np.arange(x.shape[1])
            super().forward(x, sigma, attend, actions, text, wanted, **moved)
            return latents.latents[torch.from_numpy(np.clip(rows, 0, len(latents.latents) - 1))].float()[:, x.shape[1] - wanted :]

    model = Oracle(STUDENT.model)
    losses = {}
    for lag in (0, 1):
        rollout = Rollout(replace(STUDENT.rollout, adversary_price=0.0), STUDENT.window, model, latents)
        rng = np.random.default_rng(0)
        with torch.no_grad():
            losses[lag] = [float(rollout.loss(rng)) for _ in range(8)]
    assert max(losses[0]) < 1e-6
    assert min(losses[1]) > 1e-3


def test_streams_are_no_longer_than_the_longest_session(latents: LatentClips) -> None:
    recipe = replace(STUDENT.rollout, shortest=3, longest=1000)
    streams = Streams(recipe, STUDENT.window, Transformer(STUDENT.model), latents)
    streams.go_on(np.random.default_rng(0))
    assert streams.end <= 80


TAUGHT = replace(STUDENT, steps=300, batch=8, short_share=0.0, rollout_from=1.0)


def test_what_stands_out_counts_more_nearby_and_is_drawn_more_often(latents: LatentClips) -> None:
    frames = latents.latents.clone()
    frames[40:60, :, :1, :1] += 6.0
    clips = LatentClips(latents.clips, frames)
    prices = clips.prices(frames.float(), 1.0)
    assert prices.mean() == pytest.approx(1, abs=1e-3)
    assert prices[40:60, :1, :1].min() > 2 * prices[:40].mean()
    assert prices[40:60, :3, :4].min() > 1.5 * prices[:40].mean(), "bodies move"
    assert torch.equal(clips.prices(frames, 0.0), torch.ones(prices.shape))
    rng = np.random.default_rng(0)
    shares = [np.mean([40 <= first + 10 < 60 for first in clips.draw_starts(20, 10, 2000, rng, stands_out)]) for stands_out in (0.0, 3.0)]
    assert shares[1] > 1.3 * shares[0] > 0


def test_what_an_error_counts_is_known_before_the_window(latents: LatentClips) -> None:
    """If it depended on what is to come the network would learn to make up what costs more to miss."""
    assert Layout(2, 3, 2, 4).before_windows(torch.arange(13)[None])[0].tolist() == [4, 6, 8, 10], "sink 0 1, past 2 3 4, then windows of 2 from 5 on"
    recipe, layout = replace(STUDENT, past_noise_share=0.0, guessed_before=0.0, flat_share=0.0), Layout(2, 2, 2, 2)
    shown, actions, places = latents.draw(layout, 3, STUDENT.model.action_history, np.random.default_rng(0))
    model = Transformer(STUDENT.model)
    for window in range(2):
        priced = torch.zeros(3, 2, *shown.shape[-2:])
        priced[:, window] = 1
        torch.manual_seed(0)
        _, errors, _ = clip_loss(model, recipe, shown, actions, places, layout, np.random.default_rng(1), priced)
        assert (errors.unflatten(1, (2, 2)).sum((0, 2)) > 0).tolist() == [not window, bool(window)], "one price for all frames of a window"


@pytest.fixture(scope="module")
def taught(latents: LatentClips, autoencoder: Autoencoder, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    """Return a student that was trained for a while."""
    torch.set_num_threads(1)
    return train_student(TAUGHT, latents, latents, autoencoder, tmp_path_factory.mktemp("taught"))


@pytest.mark.timeout(480)  # two trainings, on whatever machine
def test_the_student_learns_what_the_actions_do(taught: Transformer, latents: LatentClips, autoencoder: Autoencoder, tmp_path: Path) -> None:
    """After the same few steps, true actions must explain held-out windows better than actions that were shuffled in training."""
    shuffled = replace(latents, clips=replace(latents.clips, actions=np.random.default_rng(1).permutation(latents.clips.actions)))
    errors = []
    for model, data in ((taught, latents), (train_student(TAUGHT, shuffled, latents, autoencoder, tmp_path), shuffled)):
        torch.manual_seed(0)
        rng, layout = np.random.default_rng(2), Layout(2, 2, 3, 3)
        with torch.no_grad():
            losses = [clip_loss(model, TAUGHT, *data.draw(layout, 16, TAUGHT.model.action_history, rng), layout, rng)[1].mean().item() for _ in range(4)]
        errors.append(float(np.mean(losses)))
    assert errors[0] < 0.9 * errors[1], errors


DISTILL = DistillRecipe(batch=4, past=6, shortest=3, longest=8, steps=4, critic_steps=2, known=2)


def test_distillation_takes_back_what_the_teacher_would_not_paint(taught: Transformer, latents: LatentClips) -> None:
    """A student whose pictures are too bright goes back to the teacher's brightness; no true frame tells it to."""
    model, teacher, critic = (Transformer(TAUGHT.model) for _ in range(3))
    for network in (model, teacher, critic):
        network.load_state_dict(taught.state_dict())
    with torch.no_grad():
        assert model.motion is not None
        model.motion.leave.bias += 0.3  # type: ignore[operator]
    recipe = replace(DISTILL, truth_price=0.0, student_adam_rate=5e-3, student_muon_rate=5e-3, critic_adam_rate=5e-3, critic_muon_rate=5e-3)
    distillation = Distillation(recipe, TAUGHT.window, model, teacher.requires_grad_(False), critic, latents)
    optimizer = MuonAdamW(model, recipe.student_muon_rate, recipe.student_adam_rate)
    before = brightness(model, latents) - brightness(taught, latents)
    for step in range(40):
        torch.manual_seed(step)
        distillation.step(np.random.default_rng(step), 1.0)
        optimizer.step(learning_rate(step, 40, warmup=1))  # at full speed to the end it swings to the other side
    after = brightness(model, latents) - brightness(taught, latents)
    assert before > 0.2 and abs(after) < 0.6 * before, (before, after)


@torch.no_grad()
def brightness(model: Transformer, latents: LatentClips) -> float:
    """Return the mean of the latents that a model makes in a few ticks."""
    streams = Streams(replace(DISTILL, batch=16, rollbacks=0.0), TAUGHT.window, model, latents)
    window, made = streams.go_on(np.random.default_rng(0)), []
    while len(made) < 4:
        block = window.advance(torch.zeros(16, 2))
        made += [] if block is None else [block]
    return float(torch.cat(made).mean())


class Guesser(torch.nn.Module):
    """Stands in for a network: remembers what it was given, and takes every frame to be as bright as it was called before."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.clean: list[Tensor] = []

    def forward(self, x, sigma, attend, actions, text, wanted, before, place):
        self.clean.append(x[:, :-wanted])
        self.seen.append((x[:, -wanted:], sigma[:, -wanted:], actions[:, -wanted:], before))
        return torch.full_like(x[:, -wanted:], float(len(self.seen)))


GUESSING = replace(STUDENT, model=replace(STUDENT.model, action_history=4), guessed_before=1.0, guessed_past=0.0, flat_share=0.0, past_noise_share=0.0)


def test_frames_ahead_move_what_was_guessed_a_tick_earlier(latents: LatentClips) -> None:
    """The first frame of a window moves a finished frame; the others move guesses made at the level before."""
    layout, guesser = Layout(GUESSING.window.context.sink, 2, 3, 2), Guesser()
    frames, actions, places = latents.draw(layout, 4, GUESSING.model.action_history, np.random.default_rng(0))
    _, _, sigma = clip_loss(guesser, GUESSING, frames, torch.zeros_like(actions), places, layout, np.random.default_rng(1))
    (_, earlier, _, _), (_, levels, _, before) = guesser.seen
    assert torch.equal(levels, sigma)
    by_window = [t.unflatten(1, (2, 3)) for t in (earlier, levels, before)]
    assert torch.equal(by_window[0][:, :, :2], by_window[1][:, :, 1:]) and (by_window[0][:, :, 2] == 1).all(), "the newest was not there"
    assert torch.equal(by_window[2][:, :, 0], frames[:, [layout.sink + 1, layout.sink + 4]]) and (by_window[2][:, :, 1:] == 1.0).all()


def test_a_past_that_was_guessed_takes_the_place_of_real_frames(latents: LatentClips) -> None:
    layout, guesser = Layout(GUESSING.window.context.sink, 2, 3, 2), Guesser()
    frames, actions, places = latents.draw(layout, 4, GUESSING.model.action_history, np.random.default_rng(0))
    clip_loss(guesser, replace(GUESSING, guessed_past=1.0), frames, torch.zeros_like(actions), places, layout, np.random.default_rng(1))
    (_, before) = guesser.seen[1][2:]
    assert torch.equal(before[:, 0], frames[:, layout.sink + 1]) and (before[:, 1:] == 1.0).all()
    assert [bool((clean == 1.0).all()) for clean in guesser.clean[1].unbind(1)] == [False] * (layout.sink + 2) + [True] * 3


def test_a_window_whose_action_is_new_holds_what_was_guessed_under_the_old_one(latents: LatentClips) -> None:
    """Told the new action throughout; frames at which the tape has yet another one carry no loss."""
    sink, history, count = GUESSING.window.context.sink, GUESSING.model.action_history, GUESSING.model.num_actions
    layout, guesser = Layout(sink, 2, 3, 2), Guesser()
    frames, _, places = latents.draw(layout, 4, history, np.random.default_rng(0))
    tape = torch.zeros(sink + layout.frames + history, count)
    tape[history + sink + 2 :, 0] = 1  # new at the first window, then held
    tape[history + sink + 7 :, 0] = 0  # let go of at the third frame of the second
    actions = histories(tape[None], history)[:, 1:].expand(4, -1, -1, -1)
    loss, errors, sigma = clip_loss(guesser, GUESSING, frames, actions, places, layout, np.random.default_rng(1))
    (_, earlier, told_before, _), (noisy, levels, told, _) = guesser.seen
    assert (earlier[:, :3] == 1).all() and torch.equal(earlier[:, 3:5], levels[:, 4:6])
    assert not told_before[:, :3, :, 0].any() and (told[:, :, -1, 0] == 1).all()
    assert (told[:, 2, -3:, 0] == 1).all() and not told[:, 2, :-3].any()  # the third frame knows that the key is down since the first
    target = frames[:, sink + 2 :]
    far = [float((noisy - add_noise(of, torch.zeros_like(of), sigma[..., None, None, None]))[:, 0].square().mean()) for of in (torch.ones_like(target), target)]
    assert far[0] < far[1], far  # made of guesses, which are 1, and noise
    weights = (torch.arange(6) != 5) / sigma.clamp(min=0.3)
    assert torch.allclose(loss, (weights * errors).mean())


RECALLING = replace(STUDENT, model=replace(STUDENT.model, recall_width=64, recall_blocks=1, follow_width=64))


def test_a_memory_learns_what_is_seen_from_where_and_where_it_is(latents: LatentClips, tmp_path: Path) -> None:
    """It learns views by their places, how far actions take the player and to guess places; from places that were mixed up it learns none of it."""
    rows = np.random.default_rng(1).permutation(len(latents.latents))
    mixed_up = replace(latents, clips=replace(latents.clips, states=latents.clips.states[rows]))
    recipe = RecallRecipe(steps=400, memory_share=0.75, memory_batch=8, batch=64, adam_rate=3e-3, noise=0.0, blur=0.0)
    errors = []
    for name, clips in (("true", latents), ("mixed up", mixed_up)):
        torch.manual_seed(0)
        recall = train_recall(recipe, Transformer(RECALLING.model).recall, clips, 1, tmp_path / name)
        rng = np.random.default_rng(0)
        with torch.no_grad():
            losses = memory_loss(recall, clips, 300, rng), reckon_loss(recall, clips, 300, 1, rng), guess_loss(recall, clips, recipe, 1, rng)
            errors.append([loss.item() for loss in losses])
    assert all(true < share * mixed_up for true, mixed_up, share in zip(*errors, (0.85, 0.1, 0.3), strict=True)), errors


def test_places_lie_on_a_map_and_are_told_nearly_or_not_at_all(latents: LatentClips) -> None:
    places = latents.places
    assert places.shape == (320, 8) and float(places[:, 0].min()) >= 0 and float(places[:, 0].max()) <= 1
    told = blurred_places(places, np.random.default_rng(0), finest=-3.0, unknown=0.25)
    unknown = ~told.any(1)
    assert 0.15 < float(unknown.float().mean()) < 0.35
    assert torch.allclose(told[~unknown, 2:4].norm(dim=1), torch.ones(1))
    error = (told - places)[~unknown, :2].abs().mean(1)
    assert 1e-3 < float(error.median()) < 0.05 and float(error.max()) < 0.6


def test_a_student_recalls_and_does_not_change_its_memory(latents: LatentClips) -> None:
    model, layout, rng = Transformer(RECALLING.model), Layout(2, 2, 3, 2), np.random.default_rng(0)
    drawn = latents.draw(layout, 4, RECALLING.model.action_history, rng)
    torch.nn.init.normal_(model.motion.leave.weight, std=0.1)
    clip_loss(model, RECALLING, *drawn, layout, rng)[0].backward()
    assert model.motion.compare.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.recall.parameters())


def test_weights_without_a_memory_begin_one_that_changes_nothing_yet() -> None:
    given, recipe = make_world(), RECIPES["maze"]()
    student = replace(recipe.student, model=replace(given.transformer.config, recall_width=32))
    recalls = replace(recipe, origin=msgspec.structs.replace(recipe.origin, actions=given.card.actions), student=student)
    model = Transformer(student.model)
    model.load_state_dict(adopt(given, recalls))
    worlds = [given, World(given.card, given.autoencoder, model.eval(), given.window, given.starts)]
    streams = [world.stream(0) for world in worlds]
    for _ in range(3):
        frames = [stream.tick(["turn_left"]) for stream in streams]
        assert np.abs(frames[0].astype(int) - frames[1]).max() <= 1


def test_a_teacher_sees_windows_of_one_noise_level_and_begins_teacher_and_critic(
    taught: Transformer, latents: LatentClips, autoencoder: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(student_stage, "by_level", lambda seen_so_far, _: seen.extend(seen_so_far) or {})
    teacher = train_student(replace(STUDENT, steps=50), latents, latents, autoencoder, tmp_path, taught.state_dict(), stage="teacher")
    assert len(seen) == 50 and all(len(np.unique(sigmas)) <= STUDENT.batch for _, _, sigmas in seen)
    assert {path.name for path in tmp_path.iterdir()} == {"teacher.pt", "teacher.jsonl", "teacher.png"}
    begun: list[Transformer] = []

    def begin(self: Distillation, recipe: DistillRecipe, window: WindowConfig, *networks: Transformer) -> None:
        begun.extend(networks[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(Distillation, "__init__", begin)
    with pytest.raises(KeyboardInterrupt):
        distill(DISTILL, TAUGHT, taught, latents, latents, autoencoder, tmp_path, teacher)
    for network, origin in zip(begun, (taught, teacher, teacher), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), origin.state_dict().values(), strict=True))


@pytest.mark.parametrize("critic_steps", [1, 5])
def test_windows_that_carry_gradient_do_not_overlap(critic_steps: int, taught: Transformer, latents: LatentClips, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(DISTILL, shortest=40, longest=40, critic_steps=critic_steps, rolling_share=1.0)
    teacher, critic, model = (copy.deepcopy(taught) for _ in range(3))
    distillation = Distillation(recipe, TAUGHT.window, model, teacher.requires_grad_(False), critic, latents)
    windows: list[int] = []
    pull, learn, learnt = distillation._distance, distillation._train_critic, 0

    def watched(window: RollingWindow, x0: Tensor) -> tuple[Tensor, float]:
        if len(window.levels) == len(TAUGHT.window.ladder):
            windows.append(window.start)
        return pull(window, x0)

    def counted(*args: Any) -> float:
        nonlocal learnt
        learnt += 1
        return learn(*args)

    monkeypatch.setattr(distillation, "_distance", watched)
    monkeypatch.setattr(distillation, "_train_critic", counted)
    for step in range(6):
        distillation.step(np.random.default_rng(step), 1.0)
    assert learnt == 6 * critic_steps
    assert len(windows) > 3 and min(np.diff(windows)) >= len(TAUGHT.window.ladder)


def test_a_killed_distillation_goes_on_as_if_nothing_had_happened(
    taught: Transformer, latents: LatentClips, autoencoder: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distill(DISTILL, TAUGHT, taught, latents, latents, autoencoder, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            distill(DISTILL, TAUGHT, taught, latents, latents, autoencoder, tmp_path / "cut")
    resumed = distill(DISTILL, TAUGHT, taught, latents, latents, autoencoder, tmp_path / "cut")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


THIN = ThinRecipe(batch=4, past=6, shortest=3, longest=8, steps=4)


@torch.no_grad()
def test_what_changes_nothing_is_left_out_first(latents: LatentClips) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(STUDENT.model, num_layers=3, motion_blocks=3)).eval()
    for weight in model.parameters():
        weight.normal_(std=0.1)
    for idle in (model.blocks[1].self_attn.o, model.blocks[1].ffn[2], model.motion.blocks[2].conv2):  # type: ignore[union-attr,index]
        for weight in idle.parameters():
            weight.zero_()
    layers, pairs = choose(STUDENT.window, model, (2, 2), latents)
    assert (layers, pairs) == ([0, 2], [0, 1])
    usual = shown(STUDENT.window, model, latents)
    torch.testing.assert_close(shown(STUDENT.window, without(model, layers, pairs), latents), usual)
    assert not torch.allclose(shown(STUDENT.window, without(model, [0, 1], pairs), latents), usual, atol=1e-2)


def test_what_is_left_learns_to_show_what_the_whole_network_shows(taught: Transformer, latents: LatentClips, tmp_path: Path) -> None:
    usual = shown(TAUGHT.window, taught, latents)

    def error(steps: int) -> float:
        model = thin(replace(THIN, steps=steps), TAUGHT.window, taught, (1, 1), latents, tmp_path / str(steps))
        assert (len(model.blocks), len(model.motion.blocks)) == (1, 1)
        return float((shown(TAUGHT.window, model, latents) - usual).square().mean())

    assert error(80) < 0.75 * error(0)


def test_a_killed_thinning_goes_on_as_if_nothing_had_happened(
    taught: Transformer, latents: LatentClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = thin(THIN, TAUGHT.window, taught, (1, 1), latents, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            thin(THIN, TAUGHT.window, taught, (1, 1), latents, tmp_path / "cut")
    resumed = thin(THIN, TAUGHT.window, taught, (1, 1), latents, tmp_path / "cut")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_what_cannot_be_thinned(clips: Clips, tiny_world: World, tmp_path: Path) -> None:
    given = str(tiny_world.path)
    with pytest.raises(WorldError, match="from 1 to 2 can be left, not 0"):
        thin_world(world=given, layers=0, pairs=1, out=tmp_path)
    with pytest.raises(SessionError, match="other actions"):
        thin_world(world=given, layers=1, pairs=1, data=clips.folder, out=tmp_path)
