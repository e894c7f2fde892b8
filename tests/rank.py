"""One of several processes that train a toy student together: rank.py FOLDER. Started by torchrun in `test_training`."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_training import AUTOENCODER, STUDENT

from world_model.autoencoder import Autoencoder
from world_model.training.data import Clips
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
if is_first():
    torch.save(student.state_dict(), folder / "student.pt")
leave_ranks()
