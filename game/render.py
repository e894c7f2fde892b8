"""Write what a replay shows to a file: a video, or a moving picture for a web page. Nothing that exists is overwritten."""

import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from game.reel import Reel
from world_model.session import SessionError

VIDEO_WIDTH = 512
GIF_WIDTH = 256


def render_video(reel: Reel, fps: float, out: Path) -> None:
    """Write an H.264 video, about 512 pixels wide; raise `SessionError` if that cannot be."""
    temporary = _claim(out)
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "18"})
            for number in range(1, len(reel) + 1):
                frame = _larger(reel.frame(number), VIDEO_WIDTH)
                if number == 1:
                    stream.height, stream.width, stream.pix_fmt = frame.shape[0], frame.shape[1], "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        os.replace(temporary, out)
    except (OSError, av.FFmpegError) as error:
        raise SessionError(f"Cannot write {out}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def render_gif(reel: Reel, fps: float, out: Path) -> None:
    """Write a GIF, about 256 pixels wide; raise `SessionError` if that cannot be."""
    temporary = _claim(out)
    times = [round(100 * number / fps) for number in range(len(reel) + 1)]  # the format counts hundredths of a second
    durations = [10 * max(2, after - before) for before, after in itertools.pairwise(times)]

    def pictures() -> Iterator[Image.Image]:
        for number in range(1, len(reel) + 1):
            yield Image.fromarray(_larger(reel.frame(number), GIF_WIDTH)).quantize(128, Image.Quantize.FASTOCTREE)

    try:
        others = pictures()
        next(others).save(temporary, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
        os.replace(temporary, out)
    except OSError as error:
        raise SessionError(f"Cannot write {out}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _larger(frame: np.ndarray, width: int) -> np.ndarray:
    """Return a frame at a whole, even multiple of its size: H.264 halves the colours, and pixels stay sharp."""
    scale = 2 * max(1, round(width / (2 * frame.shape[1])))
    return frame.repeat(scale, 0).repeat(scale, 1)


def _claim(out: Path) -> Path:
    """Return a temporary name beside a path that does not exist yet."""
    if out.exists():
        raise SessionError(f"{out} exists; give another name, nothing is overwritten.")
    if not out.parent.is_dir():
        raise SessionError(f"Cannot write {out}: there is no folder {out.parent}.")
    return out.with_name(out.name + ".part")
