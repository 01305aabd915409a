"""``Transitions``: recorded steps with costs, the one form in which offline data travels between the packages."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from safe_wrappers.files import atomic_path
from safe_wrappers.observations import Observations, map_entries, take_rows


@dataclass(frozen=True)
class Transitions:
    """``N`` recorded transitions, in environment units (raw observations, unscaled actions).

    Attributes:
        observations: ``[N, ...]``, or a dict of such arrays for Dict observation spaces.
        actions: executed actions ``[N, ...]``.
        next_observations: as ``observations``.
        costs: ``[N]`` finite and >= 0, the cost of the step.
        violations: ``[N]`` bool, whether the *next* state violates the constraint.
        terminals: ``[N]`` bool, whether the episode ended there for good (time-outs are not terminal).
        env_id: ID of the environment that they were recorded in, if known.

    Raises:
        ValueError: if the arrays disagree in length or are none, or a cost is negative or not finite.
    """

    observations: Observations
    actions: NDArray[Any]
    next_observations: Observations
    costs: NDArray[np.float32]
    violations: NDArray[np.bool_]
    terminals: NDArray[np.bool_]
    env_id: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "costs", np.asarray(self.costs, dtype=np.float32).reshape(-1))
        object.__setattr__(self, "violations", np.asarray(self.violations, dtype=bool).reshape(-1))
        object.__setattr__(self, "terminals", np.asarray(self.terminals, dtype=bool).reshape(-1))
        for name in ("observations", "actions", "next_observations"):
            object.__setattr__(self, name, map_entries(np.asarray, getattr(self, name)))
        for name in _COLUMNS:
            value = getattr(self, name)
            for part in value.values() if isinstance(value, dict) else (value,):
                if not isinstance(part, np.ndarray):
                    raise ValueError(f"{name} must be an array or a dict of arrays, got {type(part).__name__}")
                if len(part) != len(self):
                    raise ValueError(f"{name} has {len(part)} rows, expected {len(self)} as in costs")
        if not (np.isfinite(self.costs).all() and (self.costs >= 0).all()):
            raise ValueError("costs must be finite and >= 0")

    def __len__(self) -> int:
        return len(self.costs)

    @property
    def n_violations(self) -> int:
        """Number of transitions into a violating state."""
        return int(self.violations.sum())

    def rows(self, index: Any) -> Transitions:
        """The transitions at ``index`` (anything that indexes an array)."""
        return replace(self, **{name: take_rows(getattr(self, name), index) for name in _COLUMNS})

    def with_env_id(self, env_id: str | None) -> Transitions:
        """The same transitions, labelled as recorded in ``env_id``."""
        return replace(self, env_id=env_id)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them to a compressed NumPy archive (``.npz``), whole or not at all."""
        columns: dict[str, NDArray[Any]] = {"env_id": np.array(self.env_id or "")}
        for name in _COLUMNS:
            value = getattr(self, name)
            parts = value.items() if isinstance(value, dict) else [("", value)]
            columns |= {f"{name}/{key}" if key else name: np.asarray(part) for key, part in parts}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **columns)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Transitions:
        """Read what ``save`` wrote.

        Raises:
            ValueError: if the file is truncated or something else.
            FileNotFoundError: if there is none.
        """
        values: dict[str, Any] = {}
        try:
            with np.load(path) as archive:
                env_id = str(archive["env_id"]) or None
                for key in set(archive.files) - {"env_id"}:
                    name, _, part = key.partition("/")
                    if part:
                        values.setdefault(name, {})[part] = archive[key]
                    else:
                        values[name] = archive[key]
            return cls(**values, env_id=env_id)
        except (zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} holds no transitions, or is damaged: {error}") from error

    def check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        """Check that the rows fit an environment's spaces.

        Raises:
            ValueError: naming the part that differs, if they do not.
        """
        if len(self) == 0:
            raise ValueError("the data set has no transitions")
        source = f" (the data set was recorded in {self.env_id!r})" if self.env_id else ""
        _check_rows("observations", self.observations, observation_space, source)
        _check_rows("next_observations", self.next_observations, observation_space, source)
        _check_rows("actions", self.actions, action_space, source)
        _check_bounds(self.actions, action_space, source)

    @classmethod
    def concatenate(cls, parts: Iterable[Transitions]) -> Transitions:
        """All parts after one another, labelled with their environment where it is one and the same.

        Raises:
            ValueError: if there is no part.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("nothing to concatenate: expected at least one Transitions")
        columns = {name: map_entries(_joined, *(getattr(part, name) for part in parts)) for name in _COLUMNS}
        env_ids = {part.env_id for part in parts}
        return cls(**columns, env_id=env_ids.pop() if len(env_ids) == 1 else None)


_COLUMNS = tuple(field.name for field in fields(Transitions) if field.name != "env_id")


def _joined(*parts: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(parts)


def _check_bounds(actions: NDArray[Any], space: spaces.Space[Any], source: str) -> None:
    """Executed actions lie in their Box, but for rounding; others would be taken for something else once scaled."""
    if not isinstance(space, spaces.Box):
        return
    slack = 1e-4 * np.where(np.isfinite(space.high - space.low), space.high - space.low, 0.0)
    outside = ((actions < space.low - slack) | (actions > space.high + slack)).reshape(len(actions), -1).any(axis=1)
    if outside.any():
        found = actions[int(outside.argmax())]
        raise ValueError(f"actions: expected executed actions in {space}, got {found}{source}")


def _check_rows(name: str, rows: Observations, space: spaces.Space[Any], source: str) -> None:
    if isinstance(space, spaces.Dict):
        if not isinstance(rows, dict) or set(rows) != set(space.spaces):
            found = sorted(rows) if isinstance(rows, dict) else "one array"
            raise ValueError(f"{name}: expected the entries {sorted(space.spaces)}, got {found}{source}")
        for key, part in space.spaces.items():
            _check_rows(f"{name}[{key!r}]", rows[key], part, source)
        return
    shape = rows.shape[1:] if isinstance(rows, np.ndarray) else None
    if shape != space.shape:
        raise ValueError(f"{name}: expected rows of shape {space.shape}, got {shape}{source}")
    if isinstance(space, spaces.Box) and not np.isfinite(np.asarray(rows, dtype=np.float64)).all():
        raise ValueError(f"{name}: all entries must be finite{source}")
