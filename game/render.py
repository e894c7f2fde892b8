"""Write what a replay shows to a file: a video, or a moving picture for a web page. Nothing that exists is overwritten."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from game.reel import Reel, counted
from world_model.session import SessionError

VIDEO_WIDTH = 512
GIF_WIDTH = 256


def render_video(reel: Reel, fps: float, out: Path) -> None:
    """Write an H.264 video, about 512 pixels wide; raise `SessionError` if that cannot be."""
    with _new_file(out) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "18"})
        for number in counted(len(reel)):
            frame = _larger(reel.frame(number), VIDEO_WIDTH)
            if number == 1:
                stream.height, stream.width, stream.pix_fmt = frame.shape[0], frame.shape[1], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def render_gif(reel: Reel, fps: float, out: Path) -> None:
    """Write a GIF, about 256 pixels wide; raise `SessionError` if that cannot be."""
    times = [round(100 * number / fps) for number in range(len(reel) + 1)]  # the format counts hundredths of a second
    durations = [10 * max(2, after - before) for before, after in itertools.pairwise(times)]

    def pictures() -> Iterator[Image.Image]:
        for number in counted(len(reel)):
            yield Image.fromarray(_larger(reel.frame(number), GIF_WIDTH)).quantize(128, Image.Quantize.FASTOCTREE)

    with _new_file(out) as temporary:
        others = pictures()
        next(others).save(temporary, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _larger(frame: np.ndarray, width: int) -> np.ndarray:
    """Return a frame at a whole, even multiple of its size: H.264 halves the colours, and pixels stay sharp."""
    scale = 2 * max(1, round(width / (2 * frame.shape[1])))
    return frame.repeat(scale, 0).repeat(scale, 1)


@contextlib.contextmanager
def _new_file(out: Path) -> Iterator[Path]:
    """Make a file where there is none, and yield a temporary path for its content; if that is not finished, neither is left."""
    temporary = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        out.open("x").close()
    except FileExistsError:
        raise SessionError(f"{out} exists; give another name, nothing is overwritten.") from None
    except OSError as error:
        raise SessionError(f"Cannot write {out}: {error.strerror}.") from error
    try:
        yield temporary
        os.replace(temporary, out)
    except BaseException as error:
        out.unlink(missing_ok=True)
        if isinstance(error, OSError | av.FFmpegError):
            raise SessionError(f"Cannot write {out}: {error.strerror or error}.") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
