"""Play a world, in a window or without one. Both run the same `Game`; only the screen and the pace differ.

Importing this module is cheap: pygame and the world model come in when play begins, torch not before the window is open.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from controls.keyboard import Keyboard
    from game.game import Game
    from game.gate import Gate
    from game.mailbox import Picture
    from game.stage import World
    from world_model.card import Card
    from world_model.prompts import Prompt
    from world_model.session import Actions

    Load = Callable[[], World]
    NewGame = Callable[[Any], Game]


@dataclass(frozen=True)
class PlayConfig:
    """What to play and how."""

    world: str = "maze"
    """Name of a world, or path of a world file."""
    seed: int = 0
    """Seed of the noise that the world is made from."""
    start: int = 0
    """Which of the world's start pictures to begin with."""
    headless: bool = False
    """Play without a window, as fast as the machine can."""
    frames: int | None = None
    """End after so many frames."""
    actions: Path | None = None
    """Play a tape: JSON lines, one list of action names per frame."""
    record: Path | None = None
    """Record a session into this new folder."""
    rollback: int | None = None
    """By how many noise levels the window goes back when the keys change, if not as the world says: more obey sooner and cost more."""
    scale: Literal["integer", "smooth"] = "integer"
    """Sharp pixels at a whole multiple of the frame's size, or smooth ones that fill the window."""
    fullscreen: bool = False
    """Start in full screen."""
    hud: bool = True
    """Show figures and keys over the picture."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """In which numbers; auto takes what was measured to be faster on this machine, bfloat16 or float32."""
    compile: bool = False
    """Let torch compile the network; the first ticks take longer."""
    prompt: str | None = None
    """What a text world is told at first."""
    prompts: Path | None = None
    """Tell a text world more on the way: JSON lines like {"frame": 96, "prompt": "It begins to rain."}, as a session keeps them."""
    parts: str | None = None
    """Folder, or name in the Hugging Face cache, of a published world's encoder and video autoencoder, if not what its card names."""
    offload: bool = False
    """Keep a text world's text encoder in main memory; new prompts take longer."""
    watch: bool = False
    """Load the world again whenever its file changes, as a checkpoint in training does, and keep the screen."""
    beside_real: bool = False
    """Play the real game and the world side by side: the same start, the same keys. Needs what the real game does."""


def enter(world: str, device: str, dtype: str = "auto", **how: Any) -> tuple["Card", "Load"]:
    """Return the card of a world, read at once, and a function that loads it, slowly: there torch is imported.

    Args:
        how: what else `World.load` is to be told.

    Raises:
        WorldError: there is no such world, or its file is broken.
    """
    from world_model.card import find_world, read_card

    path = find_world(world)

    def load() -> "World":
        import torch

        from world_model.world import World

        return World.load(path, device, None if dtype == "auto" else getattr(torch, dtype), **how)

    return read_card(path), load


def play(config: PlayConfig) -> int:
    """Play until the player leaves, the frames are played or the tape ends; return the exit code.

    Raises:
        ValueError: something asked for is not there or not right; the message is one sentence for the user.
    """
    from controls.keyboard import Keyboard, Player
    from controls.layout import Layout
    from controls.tape import Nobody, Tape
    from game.game import Game, GameConfig
    from world_model.card import user_folder
    from world_model.session import read_tape

    if config.frames is not None and config.frames < 0:
        raise ValueError(f"--frames is {config.frames}, but must not be negative.")
    if config.watch and (config.headless or config.beside_real):
        raise ValueError("--watch needs a window of its own; give it without --headless and --beside-real.")
    if config.headless and config.frames is None and config.actions is None:
        raise ValueError("Without a window nobody can end the game; give --frames N, or a tape by --actions FILE.")
    card, load = enter(config.world, config.device, config.dtype, compile=config.compile, offload=config.offload, parts=config.parts)
    if not 0 <= config.start < max(1, card.num_starts):
        raise ValueError(f"--start is {config.start}, but this world has the starts 0 to {max(1, card.num_starts) - 1}.")
    prompts = _prompts(config, card)
    new_game: Callable[..., Game] = Game
    if config.beside_real:
        from game.beside_real import GameBesideReal, Pair, Played, check_real

        check_real(card, recorded=config.record is not None)
        load_alone, new_game = load, GameBesideReal

        def load() -> "World":
            world = load_alone()
            return Pair(world, Played(world))

    keyboard = Keyboard(Layout(user_folder() / "controls.json"))
    hands: Player = Nobody() if config.headless else keyboard
    player = hands
    if config.actions:
        # Past the end of its tape a game without a window goes on only for the frames that were asked for.
        ends = config.headless and config.frames is None
        player = Tape(_per_tick(read_tape(config.actions, card.action_names), card), None if ends else hands)
    game = GameConfig(
        config.seed, config.start, config.frames, paced=not config.headless, record=config.record, rollback=config.rollback,
        prompts=prompts, own_folder=user_folder(), history_bytes=0 if config.headless else GameConfig.history_bytes,
    )  # fmt: skip
    if config.headless:
        return _without_window(card, lambda screen: new_game(load, player, screen, game))
    return _in_window(config, card, lambda mailbox: new_game(load, player, mailbox, game), keyboard)


def open_gate(device: str, dtype: str = "auto", inside: Path | None = None, *, watch: bool = False, **how: Any) -> "Gate":
    """Return the way into other worlds, which are loaded as `enter` does."""
    from game.gate import Gate
    from game.shelf import Shelf

    return Gate(Shelf(), lambda path: enter(str(path), device, dtype, **how)[1](), inside, watch)


def _per_tick(tape: "list[Actions]", card: "Card") -> "list[Actions]":
    """Return of a tape, which has a line for every frame, those that count: where a tick makes a block of frames, the line of its first."""
    frames = card.window.get("block_frames")
    return [*tape[:1], *tape[4 * frames - 3 :: 4 * frames]] if card.parts and isinstance(frames, int) and frames > 0 else tape


def _prompts(config: PlayConfig, card: "Card") -> tuple["Prompt", ...]:
    from world_model.prompts import Prompt, read_prompts

    obeys, useless = ("words and not keys", ["actions"]) if card.listens else ("keys and not words", ["prompt", "prompts", "offload"])
    for name in (*useless, *([] if card.parts else ["parts"])):
        if getattr(config, name):
            raise ValueError(f"{card.title} obeys {obeys}, and has no use for --{name}.")
    return (*([Prompt(0, config.prompt)] if config.prompt else []), *(read_prompts(config.prompts) if config.prompts else []))


def _in_window(config: PlayConfig, card: "Card", new_game: "NewGame", keyboard: "Keyboard") -> int:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from game.window import Window, WindowConfig
    from world_model.card import find_world, user_folder

    window = WindowConfig(card.title, config.scale == "smooth", config.fullscreen, config.hud, user_folder() / "screenshots")
    how: dict[str, Any] = {"compile": config.compile, "offload": config.offload, "parts": config.parts}
    gate = open_gate(config.device, config.dtype, find_world(config.world), watch=config.watch, **how)
    Window(new_game, keyboard, window, gate=gate).run()
    return 0


def _without_window(card: "Card", new_game: "NewGame") -> int:
    from world_model.session import frame_digest

    screen = NullScreen()
    new_game(screen).run()
    assert screen.last is not None, "a game shows at least the picture it starts from"
    fps = screen.frames / screen.seconds if screen.frames else 0.0
    print(f"{card.name}: {screen.frames} frames in {screen.seconds:.2f} s, {fps:.1f} fps, last frame {frame_digest(screen.last.frame)}")
    return 2 if screen.told else 0


class NullScreen:
    """A screen that nobody looks at. Sentences for the player go to the terminal."""

    def __init__(self) -> None:
        self.last: Picture | None = None
        self.told = False
        self.frames = 0
        self._began_s = 0.0
        self.seconds = 0.0

    def show(self, picture: "Picture") -> None:
        """Keep the last picture and count."""
        now_s = time.perf_counter()
        if picture.number == 0:
            self._began_s = now_s
        self.last, self.frames, self.seconds = picture, picture.number, now_s - self._began_s

    def tell(self, sentence: str) -> None:
        """Print a sentence; it is told of things that went wrong only."""
        self.told = True
        print(sentence, file=sys.stderr)
