"""Sessions: the one on-disk format for recorded play and for training data.

A session is a folder of append-only files, so a process that dies leaves everything up to its last frame readable:

- ``header.json``   what was played: world, seed, start, fps, size, the action vocabulary, versions, and the session that this one branched off, if any
- ``tape.jsonl``    one line per frame: the list of actions that led to that frame, or with what else is known an object of ``actions`` (an object of how far
  each was held, where some were held partly), ``rollback`` (by how many levels the window went back), ``input_s`` (when the input happened) and ``flip_s``
  (when the frame was on the screen): seconds since the session began
- ``video.mp4``     H.264 in fragments of one second
- ``digests.txt``   one BLAKE2b digest per frame, of the raw RGB bytes
- ``state.safetensors``  only for sessions that begin in mid-play: the state of the stream before the first frame; the others begin at a start of the world
- ``states/N.safetensors``  now and then the state after frame N, to play on from there without making all frames before it again
- ``prompts.jsonl`` only for text worlds: what they were told, and from which frame on (see `world_model.prompts`)
- ``state.jsonl``   only for data collected from a real environment: the true state (position, heading) per frame

Line n of every other file belongs to frame n of the video. Only files of these names inside the folder are ever opened: a header cannot name others.
"""

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, cast

import av
import msgspec
import numpy as np
from av.container import InputContainer
from msgspec import Meta

from world_model.prompts import Prompt, prompt_line, read_prompts

FORMAT = 1
MAX_HEADER_BYTES = 1 << 20
MAX_TAPE_LINE = 4096
DIGEST_BYTES = 16
STATE, STATES = "state.safetensors", "states"

Digest = Annotated[str, Meta(pattern=f"^[0-9a-f]{{{2 * DIGEST_BYTES}}}$")]
Seconds = Annotated[float, Meta(ge=-1e9, le=1e9)]
Actions = tuple[str, ...] | dict[str, Annotated[float, Meta(ge=0, le=1)]]  # names, or how far each is held


class SessionError(ValueError):
    """A session or tape that cannot be written or read; the message is one sentence for the user."""


class Parent(msgspec.Struct, frozen=True):
    """The session and the frame of it that another goes on from, and that frame's digest: folders get renamed, digests do not."""

    session: Annotated[str, Meta(max_length=256)]
    frame: Annotated[int, Meta(ge=0)]
    digest: Digest


class Facts(msgspec.Struct, frozen=True):
    """What every session header must say, and what one that can be replayed says besides; it may say more."""

    fps: Annotated[float, Meta(gt=0, le=1000)]
    width: Annotated[int, Meta(ge=1, le=1 << 14)]
    height: Annotated[int, Meta(ge=1, le=1 << 14)]
    actions: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=64)]
    world: Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")] | None = None
    world_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None
    seed: Annotated[int, Meta(ge=0)] = 0
    start: Annotated[int, Meta(ge=0)] = 0
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    state: bool = False
    parent: Parent | None = None
    keys: dict[str, Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=64)]] = {}


class Tick(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What led to one frame: actions, and by how many levels the window was rolled back first.

    ``input_s`` is when the oldest input happened that this frame is the first to obey, ``flip_s`` when the frame was on the screen: seconds since the
    session began, None where there was no such input or no screen.
    """

    actions: Actions
    rollback: Annotated[int, Meta(ge=0, le=31)] = 0
    input_s: Seconds | None = None
    flip_s: Seconds | None = None


def frame_digest(frame: np.ndarray) -> str:
    """Return the hex digest of one uint8 frame [height, width, 3]."""
    return hashlib.blake2b(np.ascontiguousarray(frame).tobytes(), digest_size=DIGEST_BYTES).hexdigest()


class _VideoFile:
    """The file under the video. A write that fails leaves no part of a fragment, and after it nothing is written any more.

    Finishing a video turns what is readable in fragments into a plain file by patching its beginning; on a full disk that would leave neither.
    """

    def __init__(self, path: Path) -> None:
        self._file = io.FileIO(path, "x")
        self._failed = False
        self.seek, self.tell = self._file.seek, self._file.tell

    def write(self, data: bytes) -> int:
        begin, left = self._file.tell(), memoryview(data)
        try:
            while left and not self._failed:
                left = left[self._file.write(left) :]
        except OSError:
            self._failed = True
            self._file.truncate(begin)
            raise
        return len(data)

    def close(self) -> None:
        self._file.close()


class SessionWriter:
    """Write a session frame by frame.

    Args:
        directory: a new or empty folder; parents are created.
        header: facts of the session; needs ``fps``, ``width``, ``height`` and ``actions`` (the vocabulary).
        lossless: keep the exact RGB values (training data) instead of the small, everywhere playable 4:2:0 video.
        save_state: writes the state that the session begins with to the path it is given; None: it begins at a start of the world.

    Raises:
        SessionError: the folder is not empty or cannot be written, or a later write fails (full disk).
    """

    def __init__(self, directory: Path, header: Mapping[str, Any], *, lossless: bool = False, save_state: Callable[[Path], None] | None = None) -> None:
        self.directory, self.fps = Path(directory), float(header["fps"])
        self.num_frames = 0
        self._files = contextlib.ExitStack()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if any(self.directory.iterdir()):
                raise SessionError(f"The folder {self.directory} is not empty; give a new one, recordings are never overwritten.")
            self._tape = self._open("tape.jsonl")  # the first to make it has the folder
            if save_state:
                save_state(self.directory / STATE)
            text = json.dumps({"format": FORMAT, **header, "state": save_state is not None}, indent=1)
            temporary = self.directory / "header.json.part"
            temporary.write_text(text)
            os.replace(temporary, self.directory / "header.json")
            self._digests = self._open("digests.txt")
            self._states: TextIO | None = None
            self._prompts: TextIO | None = None
            self._prompt = ""
            file = self._files.enter_context(contextlib.closing(_VideoFile(self.directory / "video.mp4")))
            movflags = {"movflags": "+hybrid_fragmented", "flush_packets": "1"}
            self._container: av.container.OutputContainer | None = av.open(file, "w", format="mp4", options=movflags)
        except Exception as error:
            self._close_files()
            if not isinstance(error, OSError | av.FFmpegError):
                raise
            raise SessionError(f"Cannot record into {self.directory}: {error.strerror or error}.") from error
        fps = Fraction(header["fps"]).limit_denominator(1000)
        halved = "yuv444p" if header["width"] % 2 or header["height"] % 2 else "yuv420p"  # odd sizes cannot be halved
        codec, pixels, crf = ("libx264rgb", "rgb24", "0") if lossless else ("libx264", halved, "14")
        options = {"crf": crf, "preset": "ultrafast", "tune": "zerolatency"}
        self._video = cast(av.VideoStream, self._container.add_stream(codec, rate=fps, options=options))
        self._video.width, self._video.height, self._video.pix_fmt = header["width"], header["height"], pixels
        self._video.codec_context.gop_size = max(1, round(fps))
        self._video.codec_context.thread_count = 1

    def _open(self, name: str) -> TextIO:
        return self._files.enter_context(open(self.directory / name, "x", buffering=1, encoding="utf-8"))

    def _close_files(self) -> None:
        with contextlib.suppress(OSError):  # what could not be flushed was told when it was written
            self._files.close()

    def append(
        self,
        frame: np.ndarray,
        actions: Iterable[str] | Mapping[str, float],
        rollback: int = 0,
        prompt: str = "",
        input_s: float | None = None,
        flip_s: float | None = None,
        *,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one uint8 frame [height, width, 3], what led to it as in `Tick`, and a text world's prompt; `state` is the true one of a real environment."""
        if self._container is None:
            raise SessionError(f"The recording in {self.directory} is finished; nothing can be added to it.")
        tick = Tick(dict(actions) if isinstance(actions, Mapping) else tuple(actions), rollback, input_s, flip_s)
        try:
            if prompt != self._prompt:
                self._prompts = self._prompts or self._open("prompts.jsonl")
                self._prompts.write(prompt_line(self.num_frames, prompt))
                self._prompt = prompt
            for packet in self._video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                self._container.mux(packet)
            self._digests.write(frame_digest(frame) + "\n")
            if state is not None:
                self._states = self._states or self._open("state.jsonl")
                self._states.write(json.dumps(state) + "\n")
            bare = isinstance(tick.actions, tuple) and tick == Tick(tick.actions)
            self._tape.write(msgspec.json.encode(tick.actions if bare else tick).decode() + "\n")
        except (OSError, av.FFmpegError) as error:
            raise SessionError(f"Recording into {self.directory} stopped: {error.strerror or error}.") from error
        self.num_frames += 1

    def keep_state(self, save_state: Callable[[Path], None]) -> None:
        """Keep the state after the last frame; raise `SessionError` or `StateError` if it cannot be written."""
        try:
            (self.directory / STATES).mkdir(exist_ok=True)
        except OSError as error:
            raise SessionError(f"Recording into {self.directory} stopped: {error.strerror}.") from error
        save_state(self.directory / STATES / f"{self.num_frames}.safetensors")

    def size(self) -> int:
        """Return how many bytes the recording has on the disk; raise `SessionError` if somebody has removed it."""
        try:
            (self.directory / "header.json").stat()
            return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())
        except OSError as error:
            raise SessionError(f"Recording stopped: the folder {self.directory} was removed.") from error

    def close(self) -> None:
        """Finish the video and close all files; calling it again does nothing."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            for packet in self._video.encode(None):
                container.mux(packet)
            container.close()
        except (OSError, av.FFmpegError) as error:
            raise SessionError(f"Recording into {self.directory} could not be finished: {error.strerror or error}.") from error
        finally:
            self._close_files()

    def __enter__(self) -> "SessionWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Session:
    """Read a session folder. Works on the session of a killed process too: whole lines and whole frames count."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        try:
            path = self.file("header.json")
            if path.stat().st_size > MAX_HEADER_BYTES:
                raise SessionError(f"{path} is larger than {MAX_HEADER_BYTES} bytes; this is not a session header.")
            self.header: dict[str, Any] = msgspec.json.decode(path.read_bytes())
            if not isinstance(self.header, dict) or self.header.get("format") != FORMAT:
                raise SessionError(f"{path} is not a session header of format {FORMAT}.")
            self.facts = msgspec.convert(self.header, Facts)
        except (OSError, UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
            raise SessionError(f"The session {self.directory} cannot be read: {error}.") from error
        self.vocabulary = self.facts.actions

    def file(self, name: str) -> Path:
        """Return the path of one of the session's files.

        Raises:
            SessionError: it is not there, or is a link that leads out of the folder.
        """
        path = self.directory / name
        if not path.is_file():
            also = ", only a video" if name == "tape.jsonl" and (self.directory / "video.mp4").exists() else ""
            raise SessionError(f"The session {self.directory} has no {name}{also}.")
        if not path.resolve().is_relative_to(self.directory.resolve()):
            raise SessionError(f"{path} leads out of its folder; a session holds its own files.")
        return path

    @property
    def state(self) -> Path | None:
        """The file with the state that the session begins with; None if it begins at a start of its world."""
        return self.file(STATE) if self.facts.state else None

    def states_between(self) -> dict[int, Path]:
        """Return the files with states in mid-session, by the frame that they come after."""
        names = (path.name for path in (self.directory / STATES).glob("*.safetensors") if re.fullmatch(r"[1-9][0-9]{0,8}", path.stem))
        return {int(name.split(".")[0]): self.file(f"{STATES}/{name}") for name in names}

    def tape(self) -> list[Actions]:
        """Return the actions of every frame."""
        return [tick.actions for tick in self.ticks()]

    def ticks(self) -> list[Tick]:
        """Return everything that led to every frame."""
        return read_ticks(self.file("tape.jsonl"), self.vocabulary, partial=True)

    def prompts(self) -> list[Prompt]:
        """Return what a text world was told, and from which frame on."""
        return read_prompts(self.file("prompts.jsonl")) if (self.directory / "prompts.jsonl").exists() else []

    def digests(self) -> list[str]:
        """Return the digest of every frame."""
        digests = list(self._lines("digests.txt"))
        for number, digest in enumerate(digests, 1):
            if len(digest) != 2 * DIGEST_BYTES or set(digest) - set("0123456789abcdef"):
                raise SessionError(f"{self.directory / 'digests.txt'} line {number} is not a digest.")
        return digests

    def states(self) -> list[dict[str, Any]]:
        """Return the true state of every frame, or an empty list where none was recorded: numbers, and under ``bodies`` a list of lists of them."""
        states = []
        for number, line in enumerate(self._lines("state.jsonl") if (self.directory / "state.jsonl").exists() else (), 1):
            try:
                states.append(msgspec.json.decode(line, type=dict[str, float | list[list[float]]]))
            except (msgspec.DecodeError, RecursionError) as error:
                raise SessionError(f"{self.directory / 'state.jsonl'} line {number} is not a state: {error}.") from error
        return states

    def _lines(self, name: str) -> Iterator[str]:
        """Yield the whole lines of a file; what a killed process began to write does not count."""
        try:
            with open(self.file(name), encoding="utf-8") as file:
                while (line := file.readline(MAX_TAPE_LINE)).endswith("\n"):
                    yield line.rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SessionError(f"Cannot read {self.directory / name}: {getattr(error, 'strerror', None) or error}.") from error

    def frames(self) -> Iterator[np.ndarray]:
        """Decode the video, yielding uint8 frames [height, width, 3]; a session that never came to a frame has none."""
        if not self.file("tape.jsonl").stat().st_size:
            return
        whole = 0
        try:
            with self.open_video() as container:
                for frame in container.decode(video=0):
                    yield self.pixels(frame)
                    whole += 1
        except (av.FFmpegError, OSError, IndexError) as error:
            if not whole:
                raise SessionError(f"The video of {self.directory} cannot be read: {error}.") from error

    def open_video(self) -> InputContainer:
        """Open the video as what it must be: in other formats, such as playlists, a file can have further files and addresses opened."""
        return av.open(str(self.file("video.mp4")), format="mp4")

    def pixels(self, frame: av.VideoFrame) -> np.ndarray:
        """Return a decoded frame of the video as uint8 [height, width, 3]; raise `SessionError` if it has not the size that the header says."""
        if (frame.width, frame.height) != (self.facts.width, self.facts.height):
            raise SessionError(f"The video of {self.directory} has frames of {frame.width} x {frame.height}, its header says otherwise.")
        return frame.to_ndarray(format="rgb24")


def read_tape(path: Path, vocabulary: Iterable[str] | None = None) -> list[Actions]:
    """Read the actions of a tape; arguments and errors as in `read_ticks`."""
    return [tick.actions for tick in read_ticks(path, vocabulary)]


def read_ticks(path: Path, vocabulary: Iterable[str] | None = None, *, partial: bool = False) -> list[Tick]:
    """Read a tape: JSON lines, one frame per line, each a list of action names or an object with the fields of `Tick`.

    Args:
        path: the tape file.
        vocabulary: the action names that may occur; None allows all.
        partial: accept an incomplete last line (what a killed process leaves).

    Raises:
        SessionError: with the number of the line that is not right.
    """
    known = None if vocabulary is None else set(vocabulary)
    tape: list[Tick] = []
    try:
        with open(path, encoding="utf-8") as file:
            number = 0
            while line := file.readline(MAX_TAPE_LINE + 1):
                number += 1
                if len(line) > MAX_TAPE_LINE:
                    raise SessionError(f"{path} line {number} is longer than {MAX_TAPE_LINE} characters.")
                if partial and not line.endswith("\n"):
                    break
                if not line.strip():
                    continue
                try:
                    told = msgspec.json.decode(line, type=tuple[str, ...] | Tick)
                except (msgspec.DecodeError, UnicodeError, RecursionError):
                    raise SessionError(f"{path} line {number} is not a JSON list of action names.") from None
                tick = told if isinstance(told, Tick) else Tick(told)
                unknown = [name for name in tick.actions if known is not None and name not in known]
                if unknown:
                    raise SessionError(f"{path} line {number} has the unknown action {unknown[0]!r}; known are {', '.join(sorted(known or ()))}.")
                tape.append(tick)
    except (OSError, UnicodeDecodeError) as error:
        raise SessionError(f"Cannot read the tape {path}: {getattr(error, 'strerror', None) or error}.") from error
    return tape


def action_vectors(ticks: Sequence[Tick], vocabulary: tuple[str, ...]) -> np.ndarray:
    """Return the actions of a tape as float32 [frames, actions]."""
    vectors = np.zeros((len(ticks), len(vocabulary)), np.float32)
    for row, tick in enumerate(ticks):
        vectors[row, [vocabulary.index(name) for name in tick.actions]] = list(tick.actions.values()) if isinstance(tick.actions, dict) else 1
    return vectors
