"""The world model: transformer, rolling window, autoencoder, world files, training and evaluation."""
