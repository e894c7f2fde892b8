"""One training stage on disk: checkpoints that survive a kill, a metrics file, progress with ETA.

Everything random in a step is derived from (seed, step), so a run resumed from a checkpoint equals one that was never cut.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from world_model.card import WorldError
from world_model.training.ranks import agree, is_first, sharded_like, wait_for_all, whole


class Stateful(Protocol):
    """Anything with a state dict: modules, optimizers, averages."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Run:
    """The folder and the clock of one stage.

    Args:
        folder: where ``STAGE.pt`` (checkpoint), ``STAGE.jsonl`` (metrics) and pictures go.
        stage: its name.
        steps: training ends when this many steps are done.
        parts: what a checkpoint holds, by name.
        every_s: seconds between checkpoints.

    Raises:
        WorldError: the folder's checkpoint does not hold all of these parts, or has them in other sizes.
    """

    def __init__(self, folder: Path, stage: str, steps: int, parts: Mapping[str, Stateful], *, every_s: float = 120.0) -> None:
        self.folder, self.stage, self.steps, self.parts, self.every_s = Path(folder), stage, steps, parts, every_s
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"{stage}.pt"
        self.step = 0
        if self.path.exists():
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if missing := parts.keys() - saved.keys():
                raise WorldError(f"{self.path} was written by another version of this program: it holds no {' and no '.join(sorted(missing))}.")
            try:
                for name, part in parts.items():
                    part.load_state_dict(sharded_like(saved[name], part.state_dict()))
            except (RuntimeError, ValueError) as error:
                raise WorldError(f"{self.path} is of networks of other sizes; train these in another folder.") from error
            self.step = saved["step"]
            print(f"{stage}: going on from step {self.step}", flush=True)

    def __iter__(self) -> Iterator[int]:
        """Yield the remaining steps; seed torch for each and write checkpoints on the way and at the end."""
        first, began, saved_at = self.step, time.monotonic(), time.monotonic()
        for step in range(first, self.steps):
            torch.manual_seed((hash_stage(self.stage) << 32) + step)
            yield step
            self.step = step + 1
            self.seconds_per_step = (time.monotonic() - began) / (self.step - first)
            if agree(time.monotonic() - saved_at > self.every_s or self.step == self.steps):
                self.save()
                saved_at = time.monotonic()

    def rng(self, step: int) -> np.random.Generator:
        """Return the numpy generator of one step."""
        return np.random.default_rng((hash_stage(self.stage), step))

    def save(self) -> None:
        """Write the checkpoint under a temporary name, then rename it; all ranks have the same, or parts of it."""
        states = {name: whole(part.state_dict()) for name, part in self.parts.items()}
        if is_first():
            save({"step": self.step, **states}, self.path)
        wait_for_all()

    def log(self, step: int, **metrics: float) -> None:
        """Append metrics (of this rank's examples) to the log and print one line with speed and ETA."""
        if not is_first():
            return
        with open(self.folder / f"{self.stage}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        pace = getattr(self, "seconds_per_step", float("nan"))
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        eta = (self.steps - step) * pace / 60
        print(f"{self.stage} {step}/{self.steps}  {text}  {pace:.3f} s/step  ETA {eta:.1f} min", flush=True)


def save(contents: Any, path: Path) -> None:
    """Write tensors under a temporary name, then rename the file: it is there whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    torch.save(contents, temporary)
    os.replace(temporary, path)


class Average:
    """Exponential moving average of a module's parameters, with a warm-up that forgets the random start."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.998) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Blend the module's present parameters in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, p in module.named_parameters():
            self.shadow[name].lerp_(p.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates, self.shadow = state["updates"], state["shadow"]


def learning_rate(step: int, steps: int, *, warmup: int = 100, decay: float = 0.5) -> float:
    """Return the factor on the base rate: linear warm-up, flat, then linear to zero over the last `decay` of the run."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / max(1.0, decay * steps)))


def hash_stage(stage: str) -> int:
    """Return a small number that is the same for the same name in every process."""
    return sum((i + 1) * byte for i, byte in enumerate(stage.encode())) % 1_000_003
