"""The learned half of the safety layer: a linear model of the next costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from safe_wrappers.actions import executed_action
from safe_wrappers.files import atomic_path
from safe_wrappers.info import COST, read_term
from safe_wrappers.observations import Observations, batch_of_one, map_entries, take_rows
from safe_wrappers.transitions import Transitions
from sb3_ext.common.checkpoint import readable
from sb3_ext.common.controllers import Controller
from sb3_ext.common.evaluation import announce_moves
from sb3_ext.common.features import ScaledFeatures, as_tensors
from sb3_ext.common.optim import FusedAdam


class LinearCostModel(ScaledFeatures):
    r"""Predicts each term of the next cost as :math:`c_i(s) + g_i(s)^T a` (Dalal et al. 2018, section 5).

    To be handed to ``safe_wrappers.SafetyLayer``, which corrects actions with it: around the environment of a trained
    agent, or of any SB3 agent while it learns.

    Deviations: the paper observes :math:`c_i(s)`, the signal before the step; here it is learned as :math:`g_i` is,
    because a cost of 0 or 1 says little about the next one, and recorded transitions do not hold the one before. One
    network gives the coefficients of all terms; observations are standardised.

    Args:
        observation_space: of the environment; any space that SB3 has a features extractor for.
        action_space: of the environment, a Box of shape ``[A]``.
        terms: what is predicted: ``"cost"`` or ``"cost_<term>"``.
        net_arch: hidden layers.
        learning_rate: of Adam.

    Raises:
        ValueError: if the actions are no Box of vectors with finite bounds, or there is no term.

    Examples:
        >>> import safe_envs
        >>> from safe_wrappers import SafetyLayer
        >>> env = gym.make("safe/Navigation2-v0")
        >>> model = LinearCostModel(env.observation_space, env.action_space)
        >>> error = model.fit(safe_envs.collect_constraint_data("safe/Navigation2-v0", 500, seed=0), steps=20)
        >>> layer = SafetyLayer(env, model, step_limit=0.2)
        >>> _ = layer.reset(seed=0)
        >>> layer.step(env.action_space.sample())[-1]["executed_action"].shape
        (2,)
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        terms: Sequence[str] = (COST,),
        *,
        net_arch: Sequence[int] = (64, 64),
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(observation_space)
        if not (isinstance(action_space, spaces.Box) and len(action_space.shape) == 1):
            raise ValueError(f"a LinearCostModel needs a Box of actions of shape (A,), got {action_space}")
        if not action_space.is_bounded():
            raise ValueError(f"a LinearCostModel needs finite bounds of the actions, got {action_space}")
        if not terms or isinstance(terms, str):
            raise ValueError(f"terms must name at least one cost in a sequence, got {terms!r}")
        self.action_space, self.terms = action_space, tuple(terms)
        self.config: dict[str, Any] = {"net_arch": tuple(net_arch), "learning_rate": learning_rate}
        n_outputs = len(self.terms) * (1 + action_space.shape[0])
        self.net = nn.Sequential(*create_mlp(self.features.features_dim, n_outputs, list(net_arch)))
        self.optimizer = FusedAdam(self.parameters(), lr=learning_rate, fused=True)

    def coefficients(self, obs: Any) -> tuple[th.Tensor, th.Tensor]:
        """Offsets ``[B, K]`` and slopes ``[B, K, A]`` for tensors, actions being scaled to [-1, 1]; differentiable."""
        outputs = self.net(self.scaled(obs)).unflatten(1, (len(self.terms), -1))
        return outputs[..., 0], outputs[..., 1:]

    def forward(self, observations: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Offsets ``[B, K]`` and slopes ``[B, K, A]`` for raw observations ``[B, ...]``, in environment units."""
        with th.no_grad():
            tensors = as_tensors(observations, self.observation_space, th.device("cpu"))
            offsets, slopes = (part.numpy() for part in self.coefficients(tensors))
        scale, shift = self._scaling()
        return offsets - slopes @ shift, slopes * scale

    def fit(self, data: Transitions, steps: int = 5_000, batch_size: int = 256) -> float:
        """Learn the cost (``terms`` must be ``("cost",)``) from recorded transitions; see ``fit_terms``."""
        if self.terms != (COST,):
            raise ValueError(f"recorded transitions hold the cost only, not {self.terms}; use fit_in or fit_terms")
        data.check_spaces(self.observation_space, self.action_space)
        return self.fit_terms(data.observations, data.actions, data.costs[:, None], steps, batch_size)

    def fit_in(
        self,
        env: gym.Env,
        n_transitions: int = 10_000,
        steps: int = 5_000,
        batch_size: int = 256,
        seed: int | None = None,
        controller: Any = None,
        controller_observation: Callable[[Any], Any] | None = None,
        missing_cost: str = "raise",
    ) -> float:
        """Learn from ``n_transitions`` in ``env``; see ``fit_terms``.

        They are made by uniformly random actions, as in the paper, or by an SB3 model or a function of observations,
        ``obs[1, ...] -> actions[1, A]``, where random ones hardly ever meet a cost; ``controller_observation``
        translates from batches of the environment's observations to the controller's own.
        """
        if controller is not None:
            controller = Controller(controller, self.observation_space, self.action_space, controller_observation)
        announce_moves(env)
        observations, actions, costs = _steps_in(env, self.terms, n_transitions, seed, controller, missing_cost)
        return self.fit_terms(observations, actions, costs, steps, batch_size)

    def fit_terms(
        self,
        observations: Observations,
        actions: NDArray[Any],
        costs: NDArray[Any],
        steps: int = 5_000,
        batch_size: int = 256,
    ) -> float:
        """Least squares on the costs that followed (equation 3 of the paper); a fitted model learns on.

        Observations are standardised by those of the first fit.

        Args:
            observations: ``[N, ...]`` raw.
            actions: ``[N, A]`` executed actions, environment units.
            costs: ``[N, K]`` terms of the cost of that step.
            steps: gradient steps.
            batch_size: rows in each.

        Returns:
            The mean squared error over all rows.
        """
        obs = as_tensors(observations, self.observation_space, th.device("cpu"))
        scale, shift = self._scaling()
        scaled = th.as_tensor(np.asarray(actions) * scale - shift, dtype=th.float32)
        targets = th.as_tensor(np.asarray(costs), dtype=th.float32)
        if not (self.learns_features or self.optimizer.state):
            self.standardise(obs)
        for _ in range(steps):
            rows = th.randint(len(targets), (batch_size,))
            loss = F.mse_loss(self._predict(take_rows(obs, rows), scaled[rows]), targets[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        with th.no_grad():
            return float(F.mse_loss(self._predict(obs, scaled), targets))

    def save(self, path: str | Path) -> None:
        """Write the model, optimiser included."""
        spaces_of = {"observation_space": self.observation_space, "action_space": self.action_space}
        state = {"model": self.state_dict(), "optimizer": self.optimizer.state_dict()}
        with atomic_path(path) as temporary:
            th.save({**spaces_of, "terms": self.terms, "config": self.config, **state}, temporary)

    @staticmethod
    def load(path: str | Path) -> LinearCostModel:
        """Read what ``save`` wrote; like every pickled file, only from where you trust.

        Raises:
            ValueError: if the file is truncated or something else.
        """
        with readable(path, "LinearCostModel"):
            found = th.load(path, weights_only=False)
            model = LinearCostModel(
                found["observation_space"], found["action_space"], found["terms"], **found["config"]
            )
            model.load_state_dict(found["model"])
            model.optimizer.load_state_dict(found["optimizer"])
            return model

    def _predict(self, obs: Any, actions: th.Tensor) -> th.Tensor:
        offsets, slopes = self.coefficients(obs)
        return offsets + (slopes * actions.unsqueeze(1)).sum(-1)

    def _scaling(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """``scale`` and ``shift`` with which ``scale * action - shift`` is in [-1, 1]."""
        low, high = self.action_space.low, self.action_space.high
        return 2.0 / (high - low), (high + low) / (high - low)


def _steps_in(
    env: gym.Env,
    terms: Sequence[str],
    n_transitions: int,
    seed: int | None,
    controller: Callable[[Any], Any] | None,
    missing_cost: str,
) -> tuple[Observations, NDArray[Any], NDArray[np.float32]]:
    """Observations, executed actions and the terms of the costs that followed."""
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    rows: list[tuple[Any, Any, list[float]]] = []
    for _ in range(n_transitions):
        seen = map_entries(np.array, obs)  # some environments write into the array that they gave
        action = env.action_space.sample() if controller is None else np.asarray(controller(batch_of_one(obs))[0])
        following, _, terminated, truncated, info = env.step(action)
        executed = executed_action(info, action, env.action_space)
        rows.append((seen, executed, [read_term(info, name, missing_cost) for name in terms]))
        obs = env.reset()[0] if terminated or truncated else following
    seen, actions, costs = zip(*rows, strict=True)
    observations = map_entries(lambda *entries: np.stack(entries), *seen)
    return observations, np.stack(actions), np.array(costs, dtype=np.float32)
