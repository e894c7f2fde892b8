"""The game: what the player sees and touches. The world model behind it knows nothing of windows."""
