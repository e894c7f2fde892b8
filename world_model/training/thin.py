"""`main.py thin`: leave out the layers that a world can do without, and teach those that stay to show the same.

The transformer's layers and the residual pairs of motion compensation add to what comes before them, so each can be left out. One after the other those go
without which the next frames change least. What is left then learns on streams of its own, as in distillation (`world_model.training.distill`): after the same
past and from the same noise it is to come to what the whole network comes to. That is one answer and not a distribution, so nothing becomes blurred.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from world_model.autoencoder import Autoencoder
from world_model.card import WorldError
from world_model.evaluation.judge import find_judge
from world_model.precision import fast_autocast
from world_model.real.origin import Origin
from world_model.stream import WindowConfig
from world_model.training.data import train_and_held_out
from world_model.training.distill import Followed
from world_model.training.optimizer import MuonAdamW
from world_model.training.recipe import RECIPES, check
from world_model.training.rollout import StreamRecipe
from world_model.training.run import Average, Run, Stateful, learning_rate
from world_model.training.student import LatentClips, averaged, play_on
from world_model.training.train import measure_and_save
from world_model.transformer import Transformer
from world_model.world import World

TICKS, CLIPS = 4, 16  # of the streams by which it is told what can be left out
PARTS = "blocks", "motion.blocks"  # where layers and pairs are in a transformer


@dataclass(frozen=True)
class ThinRecipe(StreamRecipe):
    """How to teach what is left; an error in frames after the window's first counts ``ahead_price`` times as much as one there.

    What ``stands_out`` counts as much more as it does in training (`world_model.training.student.StudentRecipe`): small monsters are the first to be left out.
    """

    batch: int = 6
    longest: int = 40
    rollbacks: float = 0.03
    steps: int = 1200
    ahead_price: float = 0.3
    muon_rate: float = 1e-3
    adam_rate: float = 1e-4
    ema: float = 0.995
    stands_out: float = 0.0


def run(
    *, world: str, layers: int, pairs: int, steps: int = ThinRecipe.steps, data: Path | None = None, out: Path | None = None, world_file: Path | None = None
) -> int:
    """Write a world with fewer layers and pairs than `world` has, taught on the sessions in `data`; a run that was cut goes on where it stopped.

    Raises:
        WorldError: it has not so many, or is none that `train` made.
        SessionError: there are no sessions, or they are not this world's.
    """
    given = World.load(world, "cpu", torch.float32)
    name, config = given.card.name, given.transformer.config
    if not config.motion_channels or given.card.parts:
        raise WorldError(f"{given.card.title} has no motion compensation; only worlds that `train` made can be thinned.")
    for what, wanted, has in (("layers", layers, config.num_layers), ("pairs", pairs, config.motion_blocks)):
        if not 1 <= wanted <= has:
            raise WorldError(f"{given.card.title} has {has} {what}; from 1 to {has} can be left, not {wanted}.")
    train, held_out = train_and_held_out(Path(data or Path("runs") / name / "data"))
    check(Origin(**{field: getattr(given.card, field) for field in Origin.__struct_fields__}), train, held_out)
    folder = Path(out or Path("runs") / name / "thin")
    folder.mkdir(parents=True, exist_ok=True)
    whole, autoencoder = Transformer(config), Autoencoder(given.autoencoder.config)  # those of a world that is played are packed
    whole.load_state_dict(given.transformer.state_dict())
    autoencoder.load_state_dict(given.autoencoder.state_dict())
    latents = LatentClips.encode(train, autoencoder, folder / "latents.pt", config).witnessed(whole)
    stands_out = RECIPES[name]().student.stands_out if name in RECIPES else 0.0
    thinned = thin(ThinRecipe(steps=steps, stands_out=stands_out), given.window, whole.eval().requires_grad_(False), (layers, pairs), latents, folder)
    made = World(msgspec.structs.replace(given.card, transformer=asdict(thinned.config)), given.autoencoder, thinned, given.window, given.starts)
    measure_and_save(made, held_out, find_judge(name), Path(world_file or folder / f"{name}.safetensors"))
    return 0


def thin(recipe: ThinRecipe, window: WindowConfig, whole: Transformer, wanted: tuple[int, int], clips: LatentClips, out: Path) -> Transformer:
    """Return the network with so many layers and pairs that shows what the whole one shows, with averaged weights; resume or just load what is in `out`."""
    layers, pairs = choose(window, whole, wanted, clips)
    model = without(whole, layers, pairs)
    optimizer, average = MuonAdamW(model, recipe.muon_rate, recipe.adam_rate), Average(model, recipe.ema)
    streams = Thinning(recipe, window, model, clips, (whole,), recipe.stands_out)
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "average": average, "streams": streams}
    run = Run(out, "thin", recipe.steps, parts)
    told: list[Tensor] = []
    for step in run:
        with fast_autocast():
            errors = streams.errors(run.rng(step))
        prices = torch.tensor([1.0, *[recipe.ahead_price] * (len(errors) - 1)])
        (prices * errors).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(learning_rate(step, recipe.steps, warmup=30))
        average.update(model)
        told.append(errors.detach()[0])
        if (step + 1) % 50 == 0:
            run.log(step + 1, error=float(torch.stack(told).mean()))
            told.clear()
    return averaged(model, average)


class Thinning(Followed):
    """The streams of what is left, which the whole network follows."""

    def errors(self, rng: np.random.Generator) -> Tensor:
        """Make a pass; return the mean square [frames] by which the window's frames are not what the whole network makes of it."""
        window = self.go_on(rng)
        (whole,) = self.followers
        whole.follow(window)
        window.enter(self.action(window, rng))
        before = window.x0
        x0 = window.denoise()
        whole.window.recalled = window.recalled  # both have the same memory
        with torch.no_grad():
            aim = whole.denoise(window, window.x, None, before)
        prices = self.clips.prices(window.last, self.stands_out)
        window.step_down(x0.detach())
        return ((x0 - aim).square().mean(2) * prices).mean((0, 2, 3))


def choose(window: WindowConfig, whole: Transformer, wanted: tuple[int, int], clips: LatentClips) -> tuple[list[int], list[int]]:
    """Return which layers and which pairs to keep: those go, one after the other, without which the next frames change least."""
    usual = shown(window, whole, clips)
    kept = list(range(whole.config.num_layers)), list(range(whole.config.motion_blocks))
    for part, number in enumerate(wanted):
        while len(kept[part]) > number:
            changes = {}
            for one in kept[part]:
                left = [[n for n in numbers if (which, n) != (part, one)] for which, numbers in enumerate(kept)]
                change = (shown(window, without(whole, *left), clips) - usual).square().mean((0, 2, 3, 4))
                changes[one] = float(change.log().mean().exp())  # the geometric mean: a clip in which somebody is lost must not decide
            least = min(changes, key=changes.__getitem__)
            kept[part].remove(least)
            print(f"without {('layer', 'pair')[part]} {least} latents change by {changes[least] ** 0.5:.3f}", flush=True)
    return kept


@torch.no_grad()
def shown(window: WindowConfig, model: Transformer, clips: LatentClips) -> Tensor:
    """Return the latent frames that a network makes in its first TICKS ticks [ticks, CLIPS, c, h, w] after as many real pasts."""
    past = window.context.cache
    first = clips.clips.starts(past + TICKS)
    first = first[clips.clips.actions[first + past].any(1)]
    first = first[np.linspace(0, len(first) - 1, CLIPS).astype(int)]
    return play_on(model, window, clips, first, TICKS, clips.places[torch.from_numpy(first + past - 1)][:, None])


def without(whole: Transformer, layers: Sequence[int], pairs: Sequence[int]) -> Transformer:
    """Return a copy of a network that has only these of its layers and pairs."""
    weights = {}
    for name, weight in whole.state_dict().items():
        for part, kept in zip(PARTS, (layers, pairs), strict=True):
            if name.startswith(part + "."):
                number, _, rest = name.removeprefix(part + ".").partition(".")
                name = f"{part}.{kept.index(int(number))}.{rest}" if int(number) in kept else ""
                break
        if name:
            weights[name] = weight
    model = Transformer(replace(whole.config, num_layers=len(layers), motion_blocks=len(pairs)))
    model.load_state_dict(weights)
    return model.eval()
