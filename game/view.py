"""From a frame of the world to its picture in the window, and to a file."""

from pathlib import Path

import numpy as np
import pygame


def placed(frame: tuple[int, int], window: tuple[int, int], smooth: bool) -> pygame.Rect:
    """Return where a frame of width and height `frame` goes in the window: centred, in its own proportions.

    Sharp pixels need a whole multiple of the frame's size; a window smaller than the frame can only be filled smoothly.
    """
    factor = min(window[0] / frame[0], window[1] / frame[1])
    if not smooth and factor >= 1:
        factor = int(factor)
    size = (max(1, round(frame[0] * factor)), max(1, round(frame[1] * factor)))
    return pygame.Rect(((window[0] - size[0]) // 2, (window[1] - size[1]) // 2), size)


def scaled(frame: np.ndarray, size: tuple[int, int], smooth: bool) -> pygame.Surface:
    """Return a uint8 frame [height, width, 3] at another size."""
    height, width, _ = frame.shape
    picture = pygame.image.frombuffer(frame.tobytes(), (width, height), "RGB")
    sharp = not smooth and size[0] >= width
    return pygame.transform.scale(picture, size) if sharp else pygame.transform.smoothscale(picture, size)


def save_screenshot(picture: pygame.Surface, folder: Path, name: str) -> Path:
    """Save a picture as the first ``name-NNN.png`` that does not exist yet, and return its path.

    Raises:
        OSError, pygame.error: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / f"{name}-{number:03d}.png"
        try:
            path.open("xb").close()  # claims the name, so that two games can never write the same file
            break
        except FileExistsError:
            number += 1
    pygame.image.save(picture, str(path))
    return path
