"""The command line. Without a command it plays the maze.

Every command is a frozen dataclass: its fields are its options, its docstrings are its help, and `run` imports the code
behind it, so that ``--help`` and mistakes are answered at once. What a user got wrong comes back as one sentence on stderr
and exit code 2; ``python -X dev main.py`` shows the traceback instead.
"""

import contextlib
import difflib
import io
import itertools
import os
import re
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from game.play import PlayConfig, play
from game.replay import ReplayConfig, replay

INTERRUPTED = 130


@dataclass(frozen=True)
class Play(PlayConfig):
    """Enter a world. This is what happens without a command, too."""

    place: Annotated[Positional[str], arg(metavar="WORLD")] = ""
    """The world to enter, in place of --world."""

    def run(self) -> int:
        """Play."""
        if self.place and self.world not in (PlayConfig.world, self.place):
            raise ValueError(f"Two worlds are asked for, {self.place!r} and {self.world!r}; give one of them.")
        return play(replace(self, world=self.place or self.world))


@dataclass(frozen=True)
class Replay(ReplayConfig):
    """Play a recorded session again, check it, render it, or play on from any of its frames."""

    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """The session."""

    def run(self) -> int:
        """Replay."""
        return replay(self.directory, self)


@dataclass(frozen=True)
class Worlds:
    """List the worlds that can be played."""

    def run(self) -> int:
        """Print one line per world."""
        from world_model.card import WorldError, list_worlds

        worlds = list_worlds()
        if not worlds:
            print("There are no worlds yet.")
        for path, card in worlds:
            if isinstance(card, WorldError):
                print(f"{path.stem:<16}cannot be played: {card}")
            else:
                actions = ", ".join(action.name for action in card.actions) or "prompts"
                print(f"{path.stem:<16}{card.title}; {card.width}x{card.height} at {card.fps:g} fps; {actions}")
        return 0


@dataclass(frozen=True)
class Parity:
    """Compare the engine with a recorded run of the published sampler."""

    file: Positional[Path]
    """Weights, noise and output of the published sampler."""

    def run(self) -> int:
        """Print the largest difference; fail if there is one."""
        from world_model.parity import main as parity

        return parity(self.file)


@dataclass(frozen=True)
class Bench:
    """Measure how fast a world runs on this machine."""

    world: str = "maze"
    """Name of a world, or path of a world file."""
    json: bool = False
    """Print one JSON object."""
    seconds: float = 60.0
    """How long to play at the world's own speed."""
    soak: int = 2000
    """How many ticks to play as fast as possible, watching the memory."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    out: Path | None = None
    """File for the figures as JSON."""
    against: Path | None = None
    """Such a file of an earlier run, to compare with."""

    def run(self) -> int:
        """Measure and print."""
        from game import cost, reaction
        from world_model.evaluation.bench import run

        return run(**asdict(self), key_to_photon=reaction.measure, recording=cost.measure, swap=reaction.measure_swap)


@dataclass(frozen=True)
class Measurement:
    """What is measured as curves."""

    world: Positional[str] = "maze"
    """Name of a world, or path of a world file."""
    json: bool = False
    """Print one JSON object."""
    plot: Path | None = None
    """Save the curves as this picture."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""


@dataclass(frozen=True)
class Scale(Measurement):
    """Measure what a tick costs as a world grows: in frame size, window, context and streams at once."""

    ticks: int = 20
    """How many ticks to time for each size."""

    def run(self) -> int:
        """Measure and print."""
        from world_model.evaluation.scale import run

        return run(**asdict(self))


@dataclass(frozen=True)
class Response(Measurement):
    """Measure how soon a world obeys another key, and what that costs."""

    trials: int = 32
    """How many changes of mind to play; in the real game where it can be played."""

    def run(self) -> int:
        """Measure and print."""
        from world_model.evaluation.response import run

        return run(**asdict(self))


@dataclass(frozen=True)
class Convert:
    """Make a world file of a published checkpoint (Rolling Forcing 1.3B, Matrix-Game 2.0)."""

    file: Positional[Path]
    """The checkpoint, rolling_forcing_dmd.pt or base_distill.safetensors; only tensors are read, no code in it is run."""
    out: Path
    """The world file to write."""
    width: int | None = None
    """Width of the world's frames, a multiple of 16 pixels, if not as published."""
    height: int | None = None
    """Height of the world's frames, a multiple of 16 pixels, if not as published."""
    heads: int | None = None
    """Attention heads, if they are not 128 wide."""
    text_len: int | None = None
    """Tokens of a prompt, or of what is seen of a start picture, if not as published."""
    pictures: tuple[Path, ...] = ()
    """Pictures to start from, for worlds of keys and mouse."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """How to keep the weights."""

    def run(self) -> int:
        """Convert."""
        from world_model.wan.convert import convert

        return convert(**asdict(self))


@dataclass(frozen=True)
class Evaluate:
    """Measure everything about a world: drift, whether it obeys, fidelity, speed."""

    world: Positional[str] = "maze"
    """Name of a world, or path of a world file."""
    against: tuple[str, ...] = ()
    """Other worlds to play beside it."""
    minutes: float = 5.0
    """How long each rollout is."""
    seeds: int = 8
    """How many rollouts."""
    trials: int = 32
    """How many changes of mind and comparisons with the real game."""
    judge: Path | None = None
    """The network that reads actions off frames, if not the one that ships."""
    out: Path | None = None
    """Folder for the report, plots and contact sheets."""
    json: bool = False
    """Print one JSON object."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""

    def run(self) -> int:
        """Measure and print."""
        from world_model.evaluation.evaluate import run

        return run(**asdict(self))


@dataclass(frozen=True)
class Collect:
    """Play the real game with a scripted player and record it as training data."""

    out: Path
    """Folder for the sessions; a run that was cut goes on where it stopped."""
    world: Annotated[Positional[str], arg(metavar="WORLD")] = ""
    """The game of a world that ships: maze, arena or racing."""
    env: str | None = None
    """Any Gymnasium environment instead, like CartPole-v1 or package:Environment-v0."""
    keys: Path | None = None
    """Its keys file: which actions there are, their keys, and what they mean to the environment."""
    frames: int = 200_000
    """Frames to train on."""
    held_out_frames: int = 10_000
    """Frames to measure on, from other seeds."""
    size: Annotated[str | None, arg(metavar="HxW")] = None
    """Height and width of the frames of --env, multiples of 16; else about 96x128, in the shape of its picture."""
    fps: float | None = None
    """Frames per second in play, if not what --env says."""
    frame_skip: int | None = None
    """For how many steps of --env an action is held; else as few as make at most 20 frames per second."""
    seed: int = 0
    """Seed of the first session."""

    def run(self) -> int:
        """Collect."""
        from controls.keys import bindings
        from world_model.real.keys import Keys
        from world_model.training.collect import run

        if self.keys:
            bindings(Keys.read(self.keys).specs)
        return run(**asdict(self))


@dataclass(frozen=True)
class Train:
    """Make a world from collected data; a run that was cut goes on where it stopped."""

    world: Annotated[Positional[str], arg(metavar="WORLD")] = ""
    """Name of the world, if not what its data says."""
    stage: Literal["autoencoder", "recall", "teacher", "student", "distill", "judge", "all"] = "all"
    """Which part to train."""
    data: Path | None = None
    """Folder that `collect` wrote, or one of recorded sessions; else runs/WORLD/data."""
    out: Path | None = None
    """Folder for checkpoints and sample pictures; else runs/WORLD."""
    world_file: Path | None = None
    """Where to write the finished world, if not into OUT."""
    begin: str | None = None
    """A world whose weights a new run begins from, if not from random ones."""
    autoencoder_steps: int | None = None
    """Steps of the first stage, if not as many as the world's recipe says."""
    recall_steps: int | None = None
    """Steps of the memory of places, likewise; only for worlds that have one."""
    teacher_steps: int | None = None
    """Steps of the second stage, likewise; with none the student is its own teacher."""
    student_steps: int | None = None
    """Steps of the third stage, likewise."""
    distill_steps: int | None = None
    """Steps of the fourth stage, likewise."""
    judge_steps: int | None = None
    """Steps of the judge, likewise."""
    shard: bool = False
    """Under torchrun: keep a part of the transformer's parameters and optimizer in each process (FSDP2), for networks that one cannot hold."""

    def run(self) -> int:
        """Train."""
        from world_model.training.train import run

        return run(**asdict(self))


@dataclass(frozen=True)
class Thin:
    """Make a world faster: leave out the layers that it can do without, and teach the others to show the same."""

    world: Annotated[Positional[str], arg(metavar="WORLD")]
    """A world that `train` made: a name, or a file."""
    layers: int
    """How many layers of the transformer are left."""
    pairs: int
    """How many residual pairs of motion compensation are left."""
    steps: int = 1200
    """Steps of learning; with none it is as it is without the others."""
    data: Path | None = None
    """Folder that `collect` wrote; else runs/WORLD/data."""
    out: Path | None = None
    """Folder for checkpoints; else runs/WORLD/thin."""
    world_file: Path | None = None
    """Where to write the world, if not into OUT."""

    def run(self) -> int:
        """Thin."""
        from world_model.training.thin import run

        return run(**asdict(self))


@dataclass(frozen=True)
class Export:
    """Write sessions as a data set: plain arrays, or one that LeRobot opens."""

    directories: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR")]
    """Sessions, or folders of sessions."""
    format: Literal["lerobot", "npz"] = "npz"
    """One file of numpy arrays per session, or a LeRobot data set of all of them (needs pyarrow)."""
    out: Path = Path("export")
    """A new folder."""

    def run(self) -> int:
        """Export."""
        if not self.directories:
            raise ValueError("Missing from main.py export: DIR, the folders of sessions; see main.py export --help.")
        from world_model.export import export

        frames = export(list(self.directories), self.format, self.out)
        print(f"Wrote {frames} frames into {self.out}.")
        return 0


Command = Play | Replay | Worlds | Parity | Convert | Bench | Scale | Response | Evaluate | Collect | Train | Thin | Export
KINDS = (Play, Replay, Worlds, Parity, Convert, Bench, Scale, Response, Evaluate, Collect, Train, Thin, Export)
COMMANDS: dict[str, type[Command]] = {kind.__name__.lower(): kind for kind in KINDS}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a comparison failed, 2 something asked for is not right, 130 interrupted."""
    try:
        return parse(sys.argv[1:] if argv is None else argv).run()
    except SystemExit as leave:  # the help has been printed
        return int(leave.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ValueError as error:
        if sys.flags.dev_mode:
            raise
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:
        if sys.flags.dev_mode or error.filename is None:
            raise
        print(f"{error.filename}: {error.strerror}.", file=sys.stderr)
        return 2


def parse(argv: Sequence[str]) -> Command:
    """Return the command that the arguments ask for; print the help and raise SystemExit if they ask for that.

    Raises:
        ValueError: they ask for nothing that exists; the message is one sentence.
    """
    arguments = list(argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print(overview())
        raise SystemExit
    if not arguments or arguments[0].startswith("-"):
        arguments.insert(0, "play")
    name, *options = arguments
    if name not in COMMANDS:
        raise ValueError(f"There is no command {name!r}" + _instead(name, COMMANDS, f"; the commands are {', '.join(COMMANDS)}."))
    see_help = f"; see main.py {name} --help."
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            command, unknown = tyro.cli(COMMANDS[name], args=options, prog=f"main.py {name}", config=(FlagCreatePairsOff,), return_unknown_args=True)
    except SystemExit as leave:
        if not leave.code:
            raise
        raise ValueError(_sentence(box.getvalue()) + see_help) from None
    for word in unknown:
        option = word.split("=")[0]
        if not option.startswith("-"):
            raise ValueError(f"main.py {name} cannot make sense of {option!r}{see_help}")
        known = [f"--{no}{field.name.replace('_', '-')}" for field in fields(command) for no in ("", "no-")]
        raise ValueError(f"main.py {name} has no option {option}{_instead(option, known, see_help)}")
    return command


def overview() -> str:
    """Return what can be asked for."""
    commands = "\n".join(f"  {name:<10}{(kind.__doc__ or '').splitlines()[0]}" for name, kind in COMMANDS.items())
    return (
        "usage: main.py [command] [options]\n\nPlay worlds that a neural network makes up as you go. "
        f"Without a command: play the maze.\n\n{commands}\n\nmain.py COMMAND --help tells more."
    )


def _instead(word: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else otherwise


def _sentence(box: str) -> str:
    """Return what one of tyro's framed and ruled error texts says first, as one sentence without its full stop."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).replace("│", " ") for line in box.splitlines()[1:]]
    parts = [list(part) for is_rule, part in itertools.groupby(lines, lambda line: not line.strip(" ─-")) if not is_rule]
    words = " ".join(line.strip() for line in parts[0] if not line.startswith(" " * 9)).rstrip(".")  # so far in stand help texts
    words = re.sub(r"\. ([A-Z])", lambda match: ", " + match[1].lower(), words)
    words = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", words)
    words = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", words)
    return words[:1].upper() + words[1:]


def start() -> NoReturn:
    """Run the command that the process was given, and end it.

    A world that is still being loaded is not waited for: torch does not bear to be torn down while a thread is in it.
    """
    code = main()
    if any(thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    start()
