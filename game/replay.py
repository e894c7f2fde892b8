"""Replay a session: in the window, or without one to verify it or to render it.

Importing this module is cheap: pygame and the world model come in when the replay begins, torch only where a frame must be made again.
"""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from game.game import Branch, Game
    from game.mailbox import Mailbox
    from game.projector import Projector
    from game.reel import Reel, Rerun
    from world_model.session import Session, Tick


DIFFERS = 1


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What to replay and how."""

    verify: bool = False
    """Make every frame again and compare it with the recording; exit code 0 if all are the same bit for bit, 1 if not, 2 if that cannot be said."""
    world: str | None = None
    """Play the tape in another world: a name, or the path of a world file."""
    split: bool = False
    """Show the recording and the frames made again side by side, over a meter of how far they diverge."""
    video: Path | None = None
    """Write what the replay shows into this video instead of opening a window."""
    gif: Path | None = None
    """Write what the replay shows into this GIF."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """In which numbers; auto takes those of the recording."""
    parts: str | None = None
    """Folder, or name in the Hugging Face cache, of a text world's text encoder and video autoencoder, if not what its card names."""


def replay(directory: Path, config: ReplayConfig) -> int:
    """Replay until the viewer leaves or the work is done; return the exit code.

    Raises:
        ValueError: something asked for is not there or not right, or the session is not what it was; the message is one sentence for the user.
    """
    from world_model.session import Session

    if config.verify and (config.split or config.video or config.gif):
        raise ValueError("--verify shows nothing; give it without --split, --video and --gif.")
    session = Session(directory.resolve() if directory.name in ("", "..") else directory)  # what comes of it is named after it
    ticks = session.ticks()
    if not ticks:
        raise ValueError(f"The session {directory} holds no frame.")
    if config.verify:
        from game.verify import DiffersError, verify

        try:
            print(verify(session, _rerun(session, ticks, config)))
        except DiffersError as differs:
            print(differs, file=sys.stderr)
            return DIFFERS
        return 0
    if config.video or config.gif:
        from game.render import render_gif, render_video

        if config.video:
            render_video(_reel(session, ticks, config), session.facts.fps, config.video)
        if config.gif:
            render_gif(_reel(session, ticks, config), session.facts.fps, config.gif)
    else:
        _in_window(session, ticks, config)
    if cut := _cut(session, ticks):
        print(cut, file=sys.stderr)
        return 2
    return 0


def _cut(session: "Session", ticks: "list[Tick]") -> str:
    """Say that frames were recorded for which the tape has no line; a process that was killed may leave one."""
    try:
        recorded = len(session.digests())
    except ValueError:  # nobody can tell
        return ""
    return f"The tape of {session.directory} is cut: it ends after {len(ticks)} of {recorded} frames." if recorded > len(ticks) + 1 else ""


def _in_window(session: "Session", ticks: "list[Tick]", config: ReplayConfig) -> None:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from controls.keyboard import Keyboard
    from controls.layout import Layout
    from game.game import Game, GameConfig
    from game.play import open_gate
    from game.projector import Projector
    from game.window import Window, WindowConfig
    from world_model.card import find_world, user_folder

    keyboard = Keyboard(Layout(user_folder() / "controls.json"))
    gate = open_gate(config.device, config.dtype)

    def project(mailbox: "Mailbox") -> "Projector":
        def play_on(rerun: "Rerun", branch: "Branch") -> "Game":
            keyboard.take()  # what was tapped to steer the show
            gate.inside = find_world(config.world or session.facts.world or "").resolve()
            start = min(session.facts.start, rerun.world.card.num_starts - 1)
            game = GameConfig(session.facts.seed, start, record=session.directory, own_folder=user_folder())
            return Game(lambda: rerun.world, keyboard, mailbox, game, branch=branch)

        def rerun() -> "Rerun":
            return _rerun(session, ticks, config, recorded_states=True)

        if cut := _cut(session, ticks):
            mailbox.tell(cut)
        return Projector(session, ticks, lambda: _reel(session, ticks, config), rerun, play_on, mailbox)

    window = WindowConfig(session.directory.name, screenshots=user_folder() / "screenshots")
    Window(project, keyboard, window, gate=gate).run()


def _reel(session: "Session", ticks: "list[Tick]", config: ReplayConfig) -> "Reel":
    from game.reel import Film, Reel

    film = Film(session) if config.split or not config.world else None
    return Reel(film, _rerun(session, ticks, config) if config.split or config.world else None)


def _rerun(session: "Session", ticks: "list[Tick]", config: ReplayConfig, *, recorded_states: bool = False) -> "Rerun":
    from game import play
    from game.reel import Rerun
    from world_model.card import find_world

    facts = session.facts
    if not config.world:
        if not facts.world or not facts.world_sha256:
            raise ValueError(f"The session {session.directory} does not name the world it was recorded in; give one by --world.")
        path = find_world(facts.world)
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != facts.world_sha256:
            raise ValueError(
                f"The session {session.directory} was recorded in the world {facts.world} with SHA-256 {facts.world_sha256[:12]}..., "
                f"but {path} has {found[:12]}...; give a world by --world."
            )
    dtype = config.dtype if config.dtype != "auto" else facts.dtype or "auto"
    _, load = play.enter(config.world or facts.world or "", config.device, dtype, parts=config.parts)
    return Rerun(load(), session, ticks, recorded_states=recorded_states)
