"""Controls: what the player's hands, or a tape, ask of the world on each tick. Knows nothing of torch or of a window."""
