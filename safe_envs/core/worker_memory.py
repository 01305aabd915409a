"""What ``WorkerVectorEnv`` and its worker processes share: arrays, nested as spaces are, and numbers of infos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import read_from_shared_memory
from numpy.typing import NDArray

Arrays = Any
"""Arrays nested in dicts and tuples as their space is; the first axis counts environments."""
Column = tuple[str, str]
"""Key and NumPy type of one column of the shared info table."""

INFO_COLUMNS = 32
"""Numeric info keys that a worker reports through shared memory; what exceeds them is pickled."""
SCALAR_TYPES: dict[type, str] = {float: "f8", np.float64: "f8", np.float32: "f4", bool: "?", np.bool_: "?"}
"""Types of info values that a float64 column holds exactly, and those that they have in the vector's infos."""
ARRAY_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def shared_space(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> spaces.Dict:
    """Space of all that one environment and the parent exchange in a step.

    Raises:
        TypeError: if a part of a space has no arrays of fixed shape.
    """
    check_array_space(observation_space, "observation")
    check_array_space(action_space, "action")
    flag, number = _box(0, 1, (), np.bool_), _box(-np.inf, np.inf, (), np.float64)
    return spaces.Dict(
        observation=observation_space,
        action=action_space,
        reward=number,
        terminated=flag,
        truncated=flag,
        info=_box(-np.inf, np.inf, (INFO_COLUMNS,), np.float64),
        present=_box(0, 1, (INFO_COLUMNS,), np.bool_),
    )


def shared_arrays(space: spaces.Dict, memory: Any, num_envs: int) -> Arrays:
    """Arrays that are the memory, which ``create_shared_memory`` made for ``num_envs`` values of the space."""
    return read_from_shared_memory(space, memory, n=num_envs)


def _box(low: float, high: float, shape: tuple[int, ...], dtype: Any) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


def check_array_space(space: spaces.Space[Any], name: str) -> None:
    """Raise ``TypeError`` unless the space consists of arrays of fixed shape that hold at least one number."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        for part in parts:
            check_array_space(part, name)
    elif not isinstance(space, ARRAY_SPACES) or 0 in (space.shape or ()):
        raise TypeError(
            f"the {name} space must be a non-empty Box, Discrete, MultiDiscrete or MultiBinary, or a Dict or Tuple of "
            f"these, got {space}; use gymnasium.vector.AsyncVectorEnv(shared_memory=False), or wrap the environment"
        )


def fill(target: Arrays, value: Any, index: Any) -> None:
    """Write a value into ``target[index]``, array by array.

    Raises:
        ValueError: if an array has another shape, or numbers that do not fit the target's type.
    """
    if isinstance(target, Mapping):
        if not (isinstance(value, Mapping) and target.keys() <= value.keys()):
            raise ValueError(f"expected a dict with the keys {list(target)}, as the space says, got {value!r}")
        for key, part in target.items():
            fill(part, value[key], index)
    elif isinstance(target, tuple):
        for part, part_value in zip(target, value, strict=True):
            fill(part, part_value, index)
    else:
        place, array = target[index], np.asarray(value)
        if array.shape != place.shape or not np.can_cast(array.dtype, place.dtype, "same_kind"):
            raise ValueError(
                f"expected an array of shape {place.shape} and type {place.dtype}, as the space says, "
                f"got shape {array.shape} and type {array.dtype}"
            )
        place[...] = array


def copied(arrays: Arrays, rows: slice = slice(None)) -> Arrays:
    """Copies of the rows, nested alike."""
    if isinstance(arrays, Mapping):
        return {key: copied(part, rows) for key, part in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(copied(part, rows) for part in arrays)
    return arrays[rows].copy()


class InfoTable:
    """Numeric entries of the infos of a worker's environments, in shared memory.

    A key gets a column when it first comes up, and keeps it.

    Args:
        values: ``[k, INFO_COLUMNS]`` float64.
        present: ``[k, INFO_COLUMNS]`` bool, whether the environment reported the entry in this step.
    """

    def __init__(self, values: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
        self._values, self._present = values, present
        self._columns: dict[str, tuple[int, str]] = {}

    def clear(self) -> None:
        """Forget the entries of the step before."""
        self._values[:, : len(self._columns)] = 0.0
        self._present[:, : len(self._columns)] = False

    def store(self, row: int, info: Mapping[str, Any]) -> dict[str, Any]:
        """Write what fits into the table and return the rest."""
        rest = {}
        for key, value in info.items():
            column = self._column(key, SCALAR_TYPES.get(type(value)))
            if column is None:
                rest[key] = value
            else:
                self._values[row, column], self._present[row, column] = value, True
        return rest

    @property
    def columns(self) -> list[Column]:
        """What the columns in use hold."""
        return [(key, dtype) for key, (_, dtype) in self._columns.items()]

    def _column(self, key: str, dtype: str | None) -> int | None:
        if dtype is None:
            return None
        if key not in self._columns:
            if len(self._columns) == INFO_COLUMNS:
                return None
            self._columns[key] = (len(self._columns), dtype)
        column, known_dtype = self._columns[key]
        return column if dtype == known_dtype else None
