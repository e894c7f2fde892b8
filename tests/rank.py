"""One of several processes that train a toy student together: rank.py FOLDER. Started by torchrun in `test_training`.

It trains with rollouts and, on clips alone, two ways: with all parameters in every process, and sharded, cut after three steps and taken up again.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from test_training import AUTOENCODER, STUDENT, interrupted

from world_model.autoencoder import Autoencoder
from world_model.training.data import Clips
from world_model.training.optimizer import MuonAdamW
from world_model.training.ranks import is_first, join_ranks, leave_ranks
from world_model.training.student import LatentClips, train_student

folder = Path(sys.argv[1])
torch.set_num_threads(1)
join_ranks()
clips = Clips.load(folder / "sessions")
autoencoder = Autoencoder(AUTOENCODER.model)
autoencoder.load_state_dict(torch.load(folder / "autoencoder.pt", weights_only=True))
latents = LatentClips.encode(clips, autoencoder.eval(), folder / "latents.pt")
student = train_student(STUDENT, latents, latents, autoencoder, folder / "ranks")

kept: list[float] = []
step = MuonAdamW.step


def watched(optimizer: MuonAdamW, factor: float = 1.0) -> None:
    """Step, and note which share of the parameters and of the optimizer's moments this process keeps."""
    step(optimizer, factor)
    moments = [m for part in (optimizer.muon, optimizer.adamw) for state in part.state.values() for m in state.values() if m.numel() > 1]
    tensors = [*optimizer.model.parameters(), *moments]
    kept.append(sum((t.to_local() if isinstance(t, DTensor) else t).numel() for t in tensors) / sum(t.numel() for t in tensors))


on_clips = replace(STUDENT, rollout_from=1.0)
alike = train_student(on_clips, latents, latents, autoencoder, folder / "alike")
sharded = replace(on_clips, shard=True)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(MuonAdamW, "step", watched)
    interrupted(patch, 3)
    with pytest.raises(KeyboardInterrupt):
        train_student(sharded, latents, latents, autoencoder, folder / "sharded")
parts = train_student(sharded, latents, latents, autoencoder, folder / "sharded")
if is_first():
    torch.save(student.state_dict(), folder / "student.pt")
    torch.save({"kept": torch.tensor(kept), "alike": alike.state_dict(), "parts": parts.state_dict()}, folder / "sharded.pt")
leave_ranks()
