"""`main.py train`: from sessions to a playable world file, stage by stage.

Each stage goes on from its last checkpoint when it is started again, so the whole command can be killed and repeated at any time.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
import torch.nn.functional as F

from world_model.autoencoder import Autoencoder
from world_model.card import SHIPPED, Card, WorldError
from world_model.evaluation import fidelity
from world_model.evaluation.judge import Judge
from world_model.precision import fast_autocast, fastest
from world_model.stream import WindowConfig
from world_model.training.autoencoder import train_autoencoder
from world_model.training.data import Clips, train_and_held_out
from world_model.training.distill import distill
from world_model.training.judge import train_judge
from world_model.training.ranks import count_ranks, is_first, join_ranks, leave_ranks, wait_for_all
from world_model.training.recall import train_recall
from world_model.training.recipe import RECIPES, WorldRecipe, check, find_recipe, recalling
from world_model.training.sharpen import sharpen
from world_model.training.student import BEFORE_ROLLOUTS, STRIP, LatentClips, train_student
from world_model.transformer import Transformer, TransformerConfig
from world_model.world import World

Stage = Literal["autoencoder", "recall", "teacher", "student", "distill", "judge", "all"]


def run(
    *,
    world: str = "",
    stage: Stage = "all",
    data: Path | None = None,
    out: Path | None = None,
    world_file: Path | None = None,
    begin: str | None = None,
    autoencoder_steps: int | None = None,
    recall_steps: int | None = None,
    teacher_steps: int | None = None,
    student_steps: int | None = None,
    distill_steps: int | None = None,
    judge_steps: int | None = None,
    shard: bool = False,
) -> int:
    """Train the stages of `world` from the sessions in `data` into `out`; write the world file at the end.

    `begin` names a world, or a world file, whose weights new runs begin from, if need be with other actions. Without a name the world is what its data says.

    Raises:
        WorldError: it is not clear which world, or `begin` is not a world or has networks of other sizes.
        SessionError: there are no sessions, or they are not this world's.
    """
    if not world and data is None:
        raise WorldError(f"Say which world to train: one of {', '.join(RECIPES)}, or one from the sessions in --data DIR.")
    sessions = Path(data or Path("runs") / world / "data")
    recipe = find_recipe(world, sessions)
    steps = {"autoencoder": autoencoder_steps, "recall": recall_steps, "student": student_steps, "distill": distill_steps, "judge": judge_steps}
    recipe = replace(recipe, **{part: replace(getattr(recipe, part), steps=count) for part, count in steps.items() if count is not None})
    recipe = replace(recipe, student=replace(recipe.student, shard=shard), teacher_steps=recipe.teacher_steps if teacher_steps is None else teacher_steps)
    if stage == "recall" and not recipe.student.model.recall_width:
        raise WorldError(f"{recipe.origin.name} has no memory of places, so there is nothing to learn for it.")
    if stage == "teacher" and not recipe.teacher_steps:
        raise WorldError(f"{recipe.origin.name} has one network as teacher and student; for a teacher of its own say how long to train it: --teacher-steps.")
    name = recipe.origin.name
    folder = Path(out or Path("runs") / name)
    join_ranks()
    try:
        if shard and count_ranks() == 1:
            raise WorldError("Only several processes can share the parameters out; start them with torchrun --nproc-per-node=N main.py train ... --shard.")
        _train(recipe, stage, sessions, folder, Path(world_file or folder / f"{name}.safetensors"), begin)
    finally:
        leave_ranks()
    return 0


def _train(recipe: WorldRecipe, stage: Stage, data: Path, out: Path, world_file: Path, begin: str | None) -> None:
    given = World.load(begin, "cpu", torch.float32) if begin else None
    if given and (given.autoencoder.config, _without_extras(given.transformer.config)) != (recipe.autoencoder.model, _without_extras(recipe.student.model)):
        raise WorldError(f"The networks of {begin} have other sizes than this recipe's; begin from a world that this recipe made.")
    world_file.parent.mkdir(parents=True, exist_ok=True)
    if is_first():  # decodes sessions that are new, and measures the processor
        train_and_held_out(data)
        fastest()
    wait_for_all()
    train, held_out = train_and_held_out(data)
    check(recipe.origin, train, held_out)
    if recipe.student.model.recall_width and not train.knows_states:
        print("Not all of these sessions tell where they were played; the world is made without a memory of places.")
        recipe = recalling(recipe, 0)
    judge = None
    if stage in ("judge", "all"):
        judge = train_judge(recipe.judge, train, held_out, out)
        if is_first():
            judge.save(out / "judge.safetensors")
            print("the judge on held-out frames: " + ", ".join(f"{name} {value:g}" for name, value in judge.config.figures.items()))
    if stage == "judge":
        return
    held_out.starts(recipe.student.window.context.cache + STRIP)  # or it would be told after hours that nothing can be measured on these
    autoencoder = train_autoencoder(recipe.autoencoder, train, held_out, out, given.autoencoder.state_dict() if given else None)
    sharpen(recipe.autoencoder, autoencoder, train, held_out, out)
    if stage == "autoencoder":
        return
    latents, held_out_latents = (
        LatentClips.encode(clips, autoencoder, out / f"latents_{name}.pt", recipe.student.model)
        for clips, name in ((train, "train"), (held_out, "held_out"))
    )
    begin_weights, teacher = adopt(given, recipe) if given else None, None
    if recipe.student.model.recall_width:
        torch.manual_seed(0)
        fresh = Transformer(recipe.student.model)
        if begin_weights:
            fresh.load_state_dict(begin_weights)
        train_recall(recipe.recall, fresh.recall, latents, recipe.student.model.action_history, out)
        begin_weights = fresh.state_dict()
        latents, held_out_latents = latents.witnessed(fresh), held_out_latents.witnessed(fresh, latents)
    if stage == "recall":
        return
    if recipe.teacher_steps:
        teaching = replace(recipe.student, steps=recipe.teacher_steps)
        teacher = train_student(teaching, latents, held_out_latents, autoencoder, out, begin_weights, stage="teacher")
        begin_weights = teacher.state_dict()
    if stage == "teacher":
        return
    student = train_student(recipe.student, latents, held_out_latents, autoencoder, out, begin_weights)
    distils = stage in ("distill", "all")
    finished = distils and not recipe.distill.steps  # then the student is the world
    files = [out / f"{recipe.origin.name}-student.safetensors", *([world_file] if finished else [])]
    measure_and_save(build_world(recipe, autoencoder, student, latents), held_out, judge, *files)
    if distils and not finished:
        if teacher is None and (out / BEFORE_ROLLOUTS).exists():
            teacher = Transformer(recipe.student.model)
            teacher.load_state_dict(torch.load(out / BEFORE_ROLLOUTS, weights_only=True))
        played = replace(recipe.student, window=played_window(recipe))
        student = distill(recipe.distill, played, student, latents, held_out_latents, autoencoder, out, teacher)
        measure_and_save(build_world(recipe, autoencoder, student, latents), held_out, judge, world_file)


def adopt(given: World, recipe: WorldRecipe) -> dict[str, torch.Tensor]:
    """Return the weights of a world's transformer for a recipe with other actions or with a memory of places: what it does not have does nothing at first."""
    weights, model = given.transformer.state_dict(), recipe.student.model
    known = dict(zip(given.card.action_names, weights["action_embedding.0.weight"].unflatten(1, (model.action_history, -1)).unbind(2), strict=True))
    nothing = torch.zeros(model.dim, model.action_history)
    columns = torch.stack([known.get(name, nothing) for name in recipe.origin.action_names], 2)
    weights["action_embedding.0.weight"] = columns.flatten(1)
    fitting = {}
    for name, fresh in Transformer(model).state_dict().items():
        weight = weights.get(name, fresh)
        if weight.shape != fresh.shape:  # a convolution with more channels, or fewer
            wider = zip(reversed(fresh.shape), reversed(weight.shape), strict=True)
            weight = F.pad(weight, [n for new, had in wider for n in (0, new - had)])
        fitting[name] = weight
    if model.recall_width and not given.transformer.config.recall_width:  # type: ignore[union-attr]
        fitting["motion.flow.bias"][4:] = 0.0 if model.from_above or model.bodies else -12.0  # of a remembered room no more is taken at first than must be
    return fitting


def _without_extras(config: TransformerConfig) -> TransformerConfig:
    return replace(config, num_actions=0, recall_width=0, recall_blocks=0, recall_least=0.0, from_above=False, bodies=0, kinds=1)


def measure_and_save(made: World, held_out: Clips, judge: Judge | None, *files: Path) -> None:
    """Write a world to one or more files, with its measured fidelity in its card and a contact sheet beside the first, and say what it is like."""
    if not is_first():
        return
    made.save(files[0])
    figures = fidelity.measure(World.load(files[0]), held_out, judge=judge, sheet=files[0].with_suffix(".png"))
    told = {
        f"{kind if kind.endswith(('position', 'heading')) else f'psnr_{kind}'}_{horizon}": value
        for kind, by_horizon in figures.items()
        for horizon, value in by_horizon.items()
    }
    made.card = msgspec.structs.replace(made.card, figures=told)
    for path in files:
        made.save(path)
    print("against the real environment, by frames ahead (PSNR in dB; errors of position and heading):")
    for kind, by_horizon in figures.items():
        print(f"  {kind:22}" + "  ".join(f"{h}: {value:.2f}" for h, value in by_horizon.items()))
    print(f"wrote {' and '.join(map(str, files))} ({files[-1].stat().st_size / 1e6:.1f} MB); ship it by copying it to {SHIPPED}")


def played_window(recipe: WorldRecipe) -> WindowConfig:
    """Return the window of the world in play, in which it is distilled, too."""
    window = recipe.student.window
    return replace(window, ladder=recipe.ladder, context=replace(window.context, cache=recipe.context or window.context.cache))


def played_model(recipe: WorldRecipe) -> TransformerConfig:
    """Return the transformer of the world in play; its weights are those of training."""
    model = recipe.student.model
    return model if recipe.recall_least is None else replace(model, recall_least=recipe.recall_least)


def build_world(recipe: WorldRecipe, autoencoder: Autoencoder, transformer: Transformer, latents: LatentClips) -> World:
    """Put a world together: card, networks and varied start clips."""
    model, origin, window, context = played_model(recipe), recipe.origin, played_window(recipe), recipe.student.window.context
    starts = choose_starts(latents, context.cache, recipe.num_starts, autoencoder, recalls=bool(model.recall_width))
    card = Card(
        format=1, **{name: getattr(origin, name) for name in origin.__struct_fields__},
        rollback=recipe.rollback, num_starts=recipe.num_starts, start_frames=context.cache,
        transformer=asdict(model), autoencoder=asdict(autoencoder.config), window=asdict(window),
    )  # fmt: skip
    played = Transformer(model)
    played.load_state_dict(transformer.state_dict())
    return World(card, autoencoder, played.eval(), window, starts)


@torch.no_grad()
def choose_starts(
    latents: LatentClips, length: int, count: int, autoencoder: Autoencoder, *, recalls: bool, candidates: int = 2000
) -> dict[str, torch.Tensor]:
    """Choose clips that end in views with something to see, far from each other (farthest-point selection on the last latent); the first has most to see.

    How much that is, is told by how neighbouring pixels differ: a plain wall may be bright, too. A fifth of the views, the farthest from the mean one, is left
    out: nobody wants to begin in the moment of death. A world that recalls is told their places.
    """
    rng = np.random.default_rng(0)
    first = rng.choice(latents.clips.starts(length), candidates)
    to_see = np.array([np.abs(np.diff(latents.clips.frames[row + length - 1].astype(np.float32), axis=1)).mean() for row in first])
    much = to_see >= np.median(to_see)
    first, to_see = first[much], to_see[much]
    views = latents.latents[torch.from_numpy(first + length - 1)].float().flatten(1)
    strange = (views - views.mean(0)).square().sum(1)
    usual = strange <= strange.quantile(0.8)
    first, to_see, views = first[usual.numpy()], to_see[usual.numpy()], views[usual]
    chosen = [int(to_see.argmax())]
    distance = (views - views[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (views - views[chosen[-1]]).square().sum(1))
    rows = first[chosen][:, None] + np.arange(length)
    clips = latents.latents[torch.from_numpy(rows)]
    with fast_autocast():
        screens = autoencoder.decode(clips[:, -1].float())
    starts = {"latents": clips, "actions": torch.from_numpy(latents.clips.actions[rows]), "screens": screens.contiguous()}
    return starts | ({"places": latents.places[torch.from_numpy(rows[:, -1])]} if recalls else {})
