"""The keys file: which actions a world has, the keys that mean them, and what they mean to its Gymnasium environment.

    title = "Cart pole"
    noop = 0                            # what the environment is given while nothing is held

    [[actions]]
    name = "push_right"
    keys = ["right", "d"]
    label = "Push right"
    index = 1                           # Discrete: the number. MultiBinary: bits = [0, 2]. Box and MultiDiscrete: axis = 0, value = 1.0

    [[combinations]]                    # Discrete only: the number for actions that are held together
    held = ["push_right", "jump"]
    index = 5

Held together without a combination of their own, actions of a Discrete environment mean the largest combination among them, else the one that stands first
in the file. Values on one axis of a Box are added to the noop's and clipped; with ``analogue = true`` a stick or a trigger gives a part of the value.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from world_model.card import ActionSpec, Name, Text
from world_model.real.game import share

MAX_BYTES = 1 << 20
Translation = Callable[[Collection[str]], Any]


class KeysError(ValueError):
    """A keys file that cannot be read, or does not fit its environment; the message is one sentence for the user."""


class KeyedAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One action: its name, keys and label, whether it can be held partly, and one of ``index``, ``bits``, or ``axis`` with ``value``."""

    name: Name
    keys: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=8)]
    label: Annotated[str, Meta(max_length=40)] = ""
    index: int | None = None
    bits: Annotated[tuple[int, ...], Meta(min_length=1)] | None = None
    axis: int | None = None
    value: float | None = None
    analogue: bool = False

    @property
    def means(self) -> set[str]:
        """Which of the fields that speak to the environment are given."""
        return {name for name in ("index", "bits", "axis", "value") if getattr(self, name) is not None}


class Combination(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Actions held together, and the number that this is."""

    held: Annotated[tuple[Name, ...], Meta(min_length=2)]
    index: int


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A keys file. ``restart`` says that a session goes on with the next episode when one ends; else it ends with it."""

    actions: Annotated[tuple[KeyedAction, ...], Meta(min_length=1, max_length=64)]
    combinations: tuple[Combination, ...] = ()
    noop: int | tuple[float, ...] | None = None
    restart: bool = True
    name: Name | None = None
    title: Annotated[str, Meta(min_length=1, max_length=80)] | None = None
    description: Text = ""
    data_source: Text | None = None
    licence: Annotated[str, Meta(min_length=1, max_length=400)] = "Not stated: ask its maker before you pass this world on."

    @property
    def specs(self) -> tuple[ActionSpec, ...]:
        """The actions as a card has them."""
        return tuple(ActionSpec(a.name, a.keys, a.label or a.name.replace("_", " ").capitalize(), a.analogue) for a in self.actions)

    @classmethod
    def read(cls, path: Path) -> "Keys":
        """Read a keys file.

        Raises:
            KeysError: it cannot be read, or is not right in itself.
        """
        try:
            with open(path, "rb") as file:
                keys = msgspec.toml.decode(file.read(MAX_BYTES), type=cls)
        except OSError as error:
            raise KeysError(f"Cannot read the keys file {path}: {error.strerror or error}.") from error
        except (ValueError, RecursionError) as error:
            raise KeysError(f"The keys file {path} is not right: {str(error).rstrip('.')}.") from error
        names = [action.name for action in keys.actions]
        if len(set(names)) < len(names):
            raise KeysError(f"The keys file {path} names an action twice.")
        for name in {name for combination in keys.combinations for name in combination.held} - set(names):
            raise KeysError(f"The keys file {path} combines {name!r}, which is none of its actions.")
        return keys

    def translate(self, space: Any) -> Translation:
        """Return the function from the names of held actions to what an environment with this action space takes.

        Raises:
            KeysError: the file does not fit the space.
        """
        from gymnasium import spaces

        if not isinstance(space, spaces.Box) and (partly := [action.name for action in self.actions if action.analogue]):
            raise KeysError(f"Analogue actions are for Box environments; in this one, {space}, {partly[0]!r} is held or not.")
        if isinstance(space, spaces.Discrete):
            return self._to_number(int(space.start), int(space.n))
        if self.combinations:
            raise KeysError(f"Combinations are for Discrete environments; in this one, {space}, actions are held together as they are.")
        if isinstance(space, spaces.MultiBinary):
            return self._to_vector(np.zeros(space.shape), np.ones(space.shape), space, {"bits"}, adds=False)
        if isinstance(space, spaces.MultiDiscrete):
            return self._to_vector(space.start, space.start + space.nvec - 1, space, {"axis", "value"}, adds=False)
        if isinstance(space, spaces.Box):
            return self._to_vector(space.low, space.high, space, {"axis", "value"}, adds=True)
        raise KeysError(f"The environment's actions are {space}; only Discrete, MultiBinary, MultiDiscrete and Box can be played with keys.")

    def _to_number(self, start: int, count: int) -> Translation:
        for action in self.actions:
            self._check(action, {"index"}, f"one of {count} numbers")
        choices = [(frozenset({a.name}), a.index) for a in self.actions] + [(frozenset(c.held), c.index) for c in self.combinations]
        if not isinstance(self.noop, int):
            raise KeysError("A Discrete environment needs a noop in the keys file: the number that it is given while nothing is held.")
        for number in (self.noop, *(index for _, index in choices)):
            if number is None or not start <= number < start + count:
                raise KeysError(f"The environment takes the numbers {start} to {start + count - 1}; the keys file gives it {number}.")

        def translate(held: Collection[str]) -> Any:
            fitting = [choice for choice in choices if choice[0] <= set(held)]
            return max(fitting, key=lambda choice: len(choice[0]), default=(None, self.noop))[1]

        return translate

    def _to_vector(self, low: np.ndarray, high: np.ndarray, space: Any, needs: set[str], *, adds: bool) -> Translation:
        low, high = low.astype(np.float64).ravel(), high.astype(np.float64).ravel()
        for action in self.actions:
            self._check(action, needs, f"{len(low)} values at once")
        given = np.zeros(len(low)) if self.noop is None else np.atleast_1d(np.array(self.noop, np.float64))
        if given.shape != low.shape or not np.isfinite(given).all():
            raise KeysError(f"The environment takes {len(low)} values at once, so the noop needs as many; the keys file has {self.noop}.")
        noop = np.clip(given, low, high)
        pushes: dict[str, list[tuple[int, float]]] = {}
        for action in self.actions:
            pushes[action.name] = [(bit, 1.0) for bit in action.bits or ()] or [(action.axis or 0, action.value or 0.0)]
            for axis, value in pushes[action.name]:
                if not 0 <= axis < len(low):
                    raise KeysError(f"The environment's values have the places 0 to {len(low) - 1}; the action {action.name!r} means place {axis}.")
                if not low[axis] <= value <= high[axis]:
                    told = f"from {low[axis]:g} to {high[axis]:g}; the action {action.name!r} makes it {value:g}"
                    raise KeysError(f"Value {axis} of the environment lies {told}.")

        def translate(held: Collection[str]) -> Any:
            vector = noop.copy()
            for name in (name for name in pushes if name in held):
                for axis, value in pushes[name]:
                    vector[axis] = vector[axis] + share(held, name) * value if adds else value
            return np.clip(vector, low, high).reshape(space.shape).astype(space.dtype)

        return translate

    def _check(self, action: KeyedAction, needs: set[str], takes: str) -> None:
        if action.means != needs:
            found = " and ".join(sorted(action.means)) or "nothing"
            raise KeysError(f"The environment takes {takes}, so the action {action.name!r} needs {' and '.join(sorted(needs))}; the keys file has {found}.")
