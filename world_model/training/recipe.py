"""Recipes: everything needed to make one world from its sessions. A world without a written one gets a recipe that fits its frames and actions.

The shipped worlds are all 128 x 96, and what fits such frames was found by measuring on the maze; a written recipe says only what shall be different.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log, prod
from pathlib import Path

import msgspec

from world_model.autoencoder import AutoencoderConfig
from world_model.card import WorldError
from world_model.real.origin import FILE, Origin
from world_model.real.racing import VIEW
from world_model.real.sources import SOURCES
from world_model.schedule import Ladder
from world_model.session import SessionError
from world_model.training.autoencoder import AutoencoderRecipe
from world_model.training.data import Clips
from world_model.training.distill import DistillRecipe
from world_model.training.judge import JudgeRecipe
from world_model.training.recall import RecallRecipe
from world_model.training.rollout import RolloutRecipe
from world_model.training.student import StudentRecipe

TOKENS = 24  # per frame: what two cores attend to in time
LARGE = 160 * 120  # pixels from which on latents are at stride 8 instead of 4


@dataclass(frozen=True)
class WorldRecipe:
    """How to make one world, stage by stage.

    A world plays with the levels of ``ladder``, fewer than it was trained with: two look like three, tick faster and leave less speculation to unmake.
    With two, bodies that move by themselves dissolve, if the world has no memory of them. The higher the last of two, the less of what was speculated
    under other actions is left in the frame that is shown next: with 0.85 the race track, with 0.92 the maze obeys as well without a rollback as with one.
    It sees ``context`` blocks of context, if not as many as in training: with a memory of places 9 are as good as 17. And it takes at least
    ``recall_least`` of what it remembers, if not as much as in training: a network that learns with more of it learns to wash it out.
    ``rollback`` is its depth by default. No steps of distillation are made unless they are asked for: it made the maze sharper and quicker to obey,
    but there the sharpening fed on itself once nothing was pressed for ten seconds. Nor is a teacher of its own: the student learns to be one, too, in a fifth
    of its clips.
    """

    origin: Origin
    autoencoder: AutoencoderRecipe
    student: StudentRecipe
    recall: RecallRecipe = RecallRecipe()
    teacher_steps: int = 0
    distill: DistillRecipe = DistillRecipe(steps=0)
    judge: JudgeRecipe = JudgeRecipe()
    num_starts: int = 24
    ladder: Ladder = (1.0, 0.85)
    context: int | None = None
    recall_least: float | None = None
    rollback: int = 1


def derive(origin: Origin) -> WorldRecipe:
    """Return the recipe that fits a world's frame size and actions."""
    autoencoder, student = AutoencoderRecipe(), StudentRecipe()
    sizes = replace(autoencoder.model, height=origin.height, width=origin.width)
    if origin.width * origin.height > LARGE:
        sizes = replace(sizes, channels=(64, 128), latent_channels=8)
    patch = choose_patch(sizes)
    _, rows, columns = sizes.latent_shape
    transformer = replace(
        student.model, in_channels=sizes.latent_channels, num_actions=len(origin.actions), patch_size=patch, places=(rows // patch[0], columns // patch[1])
    )
    return WorldRecipe(origin, replace(autoencoder, model=sizes), replace(student, model=transformer))


def choose_patch(sizes: AutoencoderConfig) -> tuple[int, int]:
    """Return the patch (height, width) of latents that makes about TOKENS tokens of a frame; of two as good the wider, for turns move pictures sideways."""
    _, rows, columns = sizes.latent_shape
    patches = [(p, q) for p in range(1, rows + 1) for q in range(1, columns + 1) if rows % p == columns % q == 0]
    return min(patches, key=lambda patch: (abs(log(rows * columns / prod(patch) / TOKENS)) + 0.3 * abs(log(patch[1] / patch[0])), -patch[1]))


def recalling(recipe: WorldRecipe, width: int = 640) -> WorldRecipe:
    """Return the recipe of a world with one map, of which it shall have a memory; not of one whose every session has another. 0 takes the memory away."""
    model = replace(recipe.student.model, recall_width=width, recall_least=0.5 if width else 0.0)
    model = model if width else replace(model, bodies=0)
    return replace(recipe, student=replace(recipe.student, model=model), context=9 if width else None, recall_least=0.8 if width else None)


def seen_from_above(recipe: WorldRecipe, view: tuple[float, float, float]) -> WorldRecipe:
    """Return the recipe of a world that recalls what is seen from above, with a `view` as `RecallRecipe` has it."""
    student = replace(recipe.student, model=replace(recipe.student.model, from_above=True))
    return replace(recipe, student=student, recall=replace(recipe.recall, view=view))


def peopled(recipe: WorldRecipe, bodies: int, kinds: int) -> WorldRecipe:
    """Return the recipe of a world whose memory has at most so many bodies of so many kinds in it (`world_model.bodies`); what stands out counts more."""
    return replace(recipe, student=replace(recipe.student, model=replace(recipe.student.model, bodies=bodies, kinds=kinds), stands_out=1.0))


def standing_still(recipe: WorldRecipe) -> WorldRecipe:
    """Return the recipe of a world in which nothing moves but the player, and he only for as long as a frame is told of his actions."""
    return replace(recipe, student=replace(recipe.student, model=replace(recipe.student.model, stands_still=True)))


def thinned(recipe: WorldRecipe, layers: int, pairs: int) -> WorldRecipe:
    """Return the recipe of a world with so many layers of the transformer and pairs of motion compensation, as `world_model.training.thin` leaves them."""
    return replace(recipe, student=replace(recipe.student, model=replace(recipe.student.model, num_layers=layers, motion_blocks=pairs)))


def corrected(recipe: WorldRecipe, rollout: RolloutRecipe) -> WorldRecipe:
    """Return the recipe of a world whose student's last steps are corrected along its own history; the shipped ones were made in several goes."""
    return replace(recipe, student=replace(recipe.student, rollout=rollout, rollout_from=0.6))


RECIPES: dict[str, Callable[[], WorldRecipe]] = {
    "maze": lambda: replace(
        corrected(
            thinned(standing_still(recalling(derive(SOURCES["maze"].origin))), 2, 1),
            RolloutRecipe(longest=250, known=60, adversary_price=0.3, rollbacks=0.05),
        ),
        distill=DistillRecipe(
            steps=750, longest=250, known=40, truth_price=0.4, critic_steps=2,
            student_muon_rate=3e-4, student_adam_rate=3e-5, critic_muon_rate=8e-4, critic_adam_rate=8e-5,
        ),
        ladder=(1.0, 0.92),
        rollback=0,
    ),
    "arena": lambda: replace(
        thinned(peopled(recalling(derive(SOURCES["arena"].origin)), 8, 3), 3, 2),
        recall=RecallRecipe(steps=5000, memory_share=0.8, texel_rate=0.01),
        rollback=0,
    ),
    "racing": lambda: replace(thinned(seen_from_above(recalling(derive(SOURCES["racing"].origin), 1280), VIEW), 3, 2), rollback=0),
}


def find_recipe(world: str, data: Path) -> WorldRecipe:
    """Return the recipe written for a world of this name, or the one that fits the sessions in a folder.

    Args:
        world: its name; "" is what the sessions say.
        data: the folder that `collect` wrote.

    Raises:
        WorldError: the world has no written recipe, and there is no such folder either.
        OriginError: the folder does not say what its sessions are.
    """
    if world in RECIPES:
        return RECIPES[world]()
    if world and not (data / FILE).exists():
        raise WorldError(f"There is no recipe for {world!r}; known are {', '.join(RECIPES)}, and any world from what `collect` wrote into --data DIR.")
    origin = Origin.read(data)
    name = world or origin.name
    return RECIPES[name]() if name in RECIPES else derive(msgspec.structs.replace(origin, name=name))


def check(origin: Origin, *data: Clips) -> None:
    """Raise SessionError if clips are not of the world with this origin."""
    home = data[0].folder.parent
    for clips in data:
        if clips.vocabulary != origin.action_names or clips.frames.shape[1:3] != (origin.height, origin.width):
            raise SessionError(f"The sessions in {clips.folder} have other actions or another frame size than {origin.name}.")
    if (home / FILE).exists() and Origin.read(home).frames[-1] != origin.frames[-1]:
        raise SessionError(f"The sessions in {home} were collected with other analogue actions than {origin.name} has now; collect new ones.")
