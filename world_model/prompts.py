"""Timed prompts: what a text world is told, and from which frame on.

One JSON object per line, in rising order of frames: ``{"frame": 0, "prompt": "A train in the snow."}``. A session keeps what was said in such a file
(``prompts.jsonl``), and the same file says it again. Frames are counted from 0; a prompt counts from the first block on that begins at its frame or later.
"""

import json
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

MAX_LINE = 1 << 15


class PromptError(ValueError):
    """Prompts that cannot be read; the message is one sentence for the user."""


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt and the frame from which on it counts."""

    frame: Annotated[int, Meta(ge=0, le=1 << 40)]
    prompt: Annotated[str, Meta(max_length=4000)]


def prompt_line(frame: int, prompt: str) -> str:
    """Return one line of a file of timed prompts."""
    return json.dumps({"frame": frame, "prompt": prompt}) + "\n"


def read_prompts(path: Path) -> list[Prompt]:
    """Read a file of timed prompts; an unfinished last line (what a killed process leaves) does not count if it is not valid.

    Raises:
        PromptError: with the number of the line that is not right.
    """
    prompts: list[Prompt] = []
    try:
        with open(path, encoding="utf-8") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if not line.strip():
                    continue
                try:
                    prompt = msgspec.json.decode(line, type=Prompt)
                except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
                    if not line.endswith("\n") and len(line) < MAX_LINE:
                        break
                    raise PromptError(f"{path} line {number} is not a timed prompt like {prompt_line(0, '...').strip()}: {error}.") from None
                if prompts and prompt.frame < prompts[-1].frame:
                    raise PromptError(f"{path} line {number} goes back to frame {prompt.frame}; frames must rise.")
                prompts.append(prompt)
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"Cannot read the prompts {path}: {getattr(error, 'strerror', None) or error}.") from error
    return prompts
