"""Transitions as Minari data sets; Minari is imported at first use."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from safe_wrappers.info import COST, VIOLATION
from safe_wrappers.transitions import Transitions

DISTRIBUTION = "sb3-safe"
ENV_ID_KEY = "safe_env_id"


def to_minari(
    transitions: Transitions,
    dataset_id: str,
    algorithm: str = "scripted",
    env_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Store transitions as a Minari data set, one episode per run of connected rows.

    Costs and violations go into the infos; rewards are not part of ``Transitions`` and are stored as 0. Where
    the ``env_id`` is registered, its spec is stored, so that ``recover_environment()`` works; it makes the environment
    that the data are of only if ``env_kwargs`` say which.

    Args:
        transitions: array observations, at least one row.
        dataset_id: e.g. ``"safe/navigation1/constraint-v0"``.
        algorithm: what acted, for the data set's description of itself.
        env_kwargs: arguments of the environment, e.g. a task of ``TASKS``.

    Raises:
        ValueError: if the observations are dicts, there are no rows, or the data set exists already.
        gymnasium.error.DependencyNotInstalled: if Minari is missing.
    """
    minari = _import_minari()
    if len(transitions) == 0:
        raise ValueError("the data set has no transitions")
    episodes = [_episode(minari, transitions.rows(rows)) for rows in episode_slices(transitions)]
    spec = _spec_of(transitions.env_id, env_kwargs or {})
    with warnings.catch_warnings():
        # Minari warns of every optional entry that is left out, such as an e-mail address.
        warnings.simplefilter("ignore", UserWarning)
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            episodes,
            env=spec,
            observation_space=_box_of(transitions.observations),
            action_space=_box_of(transitions.actions),
            algorithm_name=algorithm,
            author=DISTRIBUTION,
            description="Transitions with costs and constraint violations, for pre-training a safety critic.",
            requirements=[DISTRIBUTION],
        )
    dataset.storage.update_metadata({ENV_ID_KEY: transitions.env_id or ""})


def load_minari(dataset_id: str) -> Transitions:
    """Load what ``to_minari`` stored, row for row.

    Raises:
        ValueError: if the infos of the data set hold no costs.
        gymnasium.error.DependencyNotInstalled: if Minari is missing.
        FileNotFoundError: if there is no such data set on this computer.
    """
    dataset = _import_minari().load_dataset(dataset_id)
    env_id = dataset.storage.metadata.get(ENV_ID_KEY) or None
    return Transitions.concatenate(_rows(episode, dataset_id) for episode in dataset).with_env_id(env_id)


def episode_slices(transitions: Transitions) -> Iterator[slice]:
    """Runs of connected rows: no terminal between them, each next observation equal to the next row's.

    Raises:
        ValueError: if the observations are dicts.
    """
    observations, next_observations = transitions.observations, transitions.next_observations
    if isinstance(observations, dict) or isinstance(next_observations, dict):
        raise ValueError("expected observations in one array, got a dict of arrays")
    linked = (next_observations[:-1] == observations[1:]).reshape(max(0, len(transitions) - 1), -1).all(axis=1)
    ends = np.flatnonzero(~linked | transitions.terminals[:-1]) + 1
    bounds = [0, *ends.tolist(), len(transitions)]
    for begin, end in pairwise(bounds):
        yield slice(begin, end)


def _import_minari() -> ModuleType:
    try:
        return import_module("minari")
    except ImportError as error:
        raise DependencyNotInstalled('this needs Minari: pip install "sb3-safe[data]"') from error


def _episode(minari: ModuleType, rows: Transitions) -> Any:
    observations = np.concatenate([rows.observations, rows.next_observations[-1:]])  # type: ignore[index]
    truncations = np.zeros(len(rows), dtype=bool)
    truncations[-1] = not rows.terminals[-1]
    return minari.data_collector.EpisodeBuffer(
        observations=observations,
        actions=rows.actions,
        rewards=np.zeros(len(rows)),
        terminations=rows.terminals,
        truncations=truncations,
        infos={COST: rows.costs, VIOLATION: rows.violations},
    )


def _rows(episode: Any, dataset_id: str) -> Transitions:
    if not {COST, VIOLATION} <= set(episode.infos or ()):
        raise ValueError(f"the infos of data set {dataset_id!r} need '{COST}' and '{VIOLATION}' on every step")
    return Transitions(
        episode.observations[:-1],
        episode.actions,
        episode.observations[1:],
        episode.infos[COST],
        episode.infos[VIOLATION],
        episode.terminations,
    )


def _spec_of(env_id: str | None, env_kwargs: Mapping[str, Any]) -> EnvSpec | None:
    if env_id not in gym.registry:
        return None
    spec = copy.deepcopy(gym.spec(env_id))
    spec.kwargs.update(env_kwargs)
    return spec


def _box_of(rows: Any) -> spaces.Box:
    array: NDArray[Any] = rows
    return spaces.Box(-np.inf, np.inf, array.shape[1:], array.dtype)
