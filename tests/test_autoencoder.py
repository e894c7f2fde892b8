"""The autoencoder: what is kept between frames never outlives what it was made of."""

import torch

from world_model.autoencoder import Autoencoder, AutoencoderConfig


def test_latents_are_unmixed_by_the_matrix_as_it_is_now() -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(height=16, width=16, channels=(8,), latent_channels=3, patch=4, encoder_blocks=1, decoder_blocks=1))
    latents = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        plain = autoencoder.to_rgb(latents)
    autoencoder.latent_matrix.mul_(2)
    torch.testing.assert_close(autoencoder.to_rgb(2 * latents), plain)
    autoencoder.load_state_dict({**autoencoder.state_dict(), "latent_matrix": 4 * torch.eye(3)}, assign=True)
    torch.testing.assert_close(autoencoder.to_rgb(4 * latents), plain)
    with torch.inference_mode():
        autoencoder.to_rgb(latents)
    latents.requires_grad_()
    autoencoder.to_rgb(latents).sum().backward()
    assert latents.grad is not None, "what a tick has kept serves a pass with gradient, too"
