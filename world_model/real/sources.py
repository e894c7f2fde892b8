"""The real games of the worlds that ship, by the worlds' names."""

from world_model.real import arena, maze, racing

SOURCES = {source.origin.name: source for source in (maze.SOURCE, arena.SOURCE, racing.SOURCE)}
