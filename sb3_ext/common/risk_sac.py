"""``RiskSAC``, the base of the algorithms that own a safety critic."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.her import HerReplayBuffer

from safe_wrappers.transitions import Transitions
from sb3_ext.common import checkpoint
from sb3_ext.common.buffers import CostBatch, CostStorage, harmless, offline_buffer, sample_union
from sb3_ext.common.features import channels_first
from sb3_ext.common.limits import check_probability, discounted_limit, fitting
from sb3_ext.common.safe_algorithm import MissingCost
from sb3_ext.common.safe_sac import SafeSAC
from sb3_ext.common.safety_critic import SafetyCritic
from sb3_ext.common.vec_envs import episode_limit

EXTRACTOR = ("features_extractor_class", "features_extractor_kwargs")
Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` while something long goes on."""


class RiskSAC(SafeSAC):
    """SAC beside a safety critic that learns from every executed action (and from offline data).

    Exactly one limit applies: ``eps_risk`` on the discounted probability of a violation, or ``cost_limit`` on the
    undiscounted cost of an episode, which is converted (``discounted_limit``). Either may be set anew at any time.

    Without offline data the safety critic learns from the batch, and the next actions, that SAC drew for its update.

    Args:
        policy: as in SB3.
        env: as in SB3.
        learning_rate: as in SB3.
        eps_risk: limit on the probability, in [0, 1]; 0.1 if neither limit is given.
        cost_limit: limit on the episode's undiscounted cost.
        episode_length: steps of an episode, to convert ``cost_limit``; None: the environment's time limit.
        gamma_risk: discount of the risk; None: 0.8 for a probability, 0.99 for a cost.
        risk_kwargs: further arguments of ``SafetyCritic`` (its ``tau`` is 2e-4 for a probability, 0.005 for a cost).
        scale_inputs: standardise the critic's inputs by the first offline data, unless it has learned before.
        online_updates: train the safety critic during ``learn`` (one update a gradient step).
        composite: next actions of the risk target come from the filtered policy, as the papers define the
            risk, and not from the task policy, as the released code takes them.
        positive_fraction: share of violating transitions in risk batches; None: as they come.
        missing_cost: what a step without cost means.
        **kwargs: SAC's arguments, ``optimize``.

    Raises:
        ValueError: for two limits, or values out of range.
    """

    parts: ClassVar[tuple[str, ...]] = ("safety_critic",)
    learned_with: ClassVar[tuple[str, ...]] = ("gamma_risk",)
    default_missing_cost: ClassVar[MissingCost] = "raise"
    buffers: ClassVar[tuple[str, ...]] = (*SafeSAC.buffers, "offline_buffer")
    transient: ClassVar[tuple[str, ...]] = (*SafeSAC.transient, "_drawn")
    _env_length: int | None = None
    """Steps of the longest episode of the last environment."""

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 3e-4,
        *,
        eps_risk: float | None = None,
        cost_limit: float | None = None,
        episode_length: int | None = None,
        gamma_risk: float | None = None,
        risk_kwargs: dict[str, Any] | None = None,
        scale_inputs: bool = False,
        online_updates: bool = True,
        composite: bool = False,
        positive_fraction: float | None = None,
        **kwargs: Any,
    ) -> None:
        if eps_risk is not None and cost_limit is not None:
            raise ValueError(f"give eps_risk or cost_limit, not both: got eps_risk={eps_risk}, cost_limit={cost_limit}")
        if eps_risk is None and cost_limit is None:
            eps_risk = 0.1
        self.eps_risk = None if eps_risk is None else check_probability("eps_risk", eps_risk)
        self.cost_limit, self.episode_length = cost_limit, episode_length
        default_gamma = 0.8 if cost_limit is None else 0.99
        self.gamma_risk = check_probability("gamma_risk", default_gamma if gamma_risk is None else gamma_risk)
        self.positive_fraction = (
            None if positive_fraction is None else check_probability("positive_fraction", positive_fraction)
        )
        self.risk_kwargs = dict(risk_kwargs or {})
        if own := {"kind", "gamma_risk"} & set(self.risk_kwargs):
            raise ValueError(
                f"risk_kwargs must not hold {sorted(own)}: the limit decides the kind, gamma_risk= the discount"
            )
        self.scale_inputs, self.online_updates, self.composite = scale_inputs, online_updates, composite
        self.offline_buffer: CostStorage | None = None
        self.pretraining_steps = self.n_offline = 0
        super().__init__(policy, env, learning_rate, **kwargs)

    def _setup_safety(self) -> None:
        # Probabilities keep Recovery RL's slow target; sums of costs over hundreds of steps would never arrive with it.
        kind, tau = ("probability", 2e-4) if self.cost_limit is None else ("return", 0.005)
        own = {"kind": kind, "gamma_risk": self.gamma_risk, "tau": tau, **self._extractor_kwargs()}
        with fitting("risk_kwargs", SafetyCritic):
            self.safety_critic = SafetyCritic(
                self.observation_space, self.action_space, **{**own, **self.risk_kwargs}
            ).to(self.device)
        self.offline_buffer = None
        self._check_limit()

    def _extractor_kwargs(self) -> dict[str, Any]:
        """The safety parts see observations through an extractor of their own, of the policy's class."""
        return {name: self.policy_kwargs[name] for name in EXTRACTOR if name in self.policy_kwargs}

    def _check_limit(self) -> float:
        if self.env is not None and self.cost_limit is not None:
            self._env_length = episode_limit(self.env)
        return self.limit

    @property
    def limit(self) -> float:
        """The limit in the unit of the safety critic; it follows ``eps_risk``, ``cost_limit`` and the environment."""
        if self.cost_limit is None:
            assert self.eps_risk is not None
            return check_probability("eps_risk", self.eps_risk)
        length = self._env_length if self.episode_length is None else self.episode_length
        if length is None:
            raise ValueError(
                "cost_limit needs the episodes' length, which the environment does not tell: pass episode_length=, or "
                "wrap the environment in gymnasium.wrappers.TimeLimit"
            )
        return discounted_limit(self.cost_limit, self.gamma_risk, length)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """SB3's ``set_env``; a ``cost_limit`` is converted anew where its episodes have another length."""
        super().set_env(env, force_reset)
        self._check_limit()

    # ------------------------------------------------------------------ public

    @classmethod
    def load(
        cls,
        path: Any,
        env: Any = None,
        *args: Any,
        eps_risk: float | None = None,
        cost_limit: float | None = None,
        **kwargs: Any,
    ) -> Self:
        """SB3's ``load``; ``eps_risk`` or ``cost_limit``, whichever the model has learned with, may be given anew.

        Raises:
            ValueError: as ``SafeAlgorithm.load``, or for a limit of the other kind.
        """
        given = {"eps_risk": eps_risk, "cost_limit": cost_limit}
        limits = {name: value for name, value in given.items() if value is not None}
        if limits:
            with checkpoint.readable(path, cls.__name__):
                learned = checkpoint.plain_data(path)
            for name in limits:
                if name in learned and learned[name] is None:
                    raise ValueError(
                        f"the safety critic of {path} has learned with a limit of the other kind, so that "
                        f"{name}={limits[name]} would mean nothing to it"
                    )
        return super().load(path, env, *args, **limits, **kwargs)

    def risk(self, obs: Any, action: NDArray[Any]) -> NDArray[np.float32]:
        """Risk ``[B]`` of observations ``[B, ...]`` (as ``predict`` takes them) and actions in environment units."""
        return self.safety_critic.risk(obs, action)

    def pretrain(
        self,
        dataset: Transitions,
        steps: int = 10_000,
        *,
        batch_size: int | None = None,
        check_env_id: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Train the safety critic (and what follows it) on offline data, which stays part of the risk's data.

        With a ``VecNormalize`` that has seen nothing yet, its observation statistics are set from the data.

        Args:
            dataset: recorded transitions with violations among them.
            steps: gradient steps.
            batch_size: transitions a step; None: as in ``learn``.
            check_env_id: refuse data that were recorded in an environment of another ID.
            progress: told how far it is.

        Raises:
            ValueError: if the data come from another environment, do not fit its spaces, or ``steps`` is negative.
        """
        if steps < 0:
            raise ValueError(f"steps must be >= 0, got {steps}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        dataset = self._checked(dataset, check_env_id)
        if not (dataset.n_violations if self.cost_limit is None else dataset.costs.any()):
            warnings.warn(f"the data set {harmless(dataset)}", stacklevel=2)
        self.offline_buffer = self._buffer_of(dataset)
        self._fit_normalisation(dataset)
        self._metrics = defaultdict(list)
        for step in range(steps):
            self._risk_step(self._risk_batch(batch_size))
            if progress is not None:
                progress(step + 1, steps)
        self.pretraining_steps += steps
        self.n_offline = len(dataset)
        return self

    def learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> Self:
        """SB3's ``learn``; warns where the safety critic lacks what it should know."""
        name = type(self).__name__
        if self.selector is not None and self.pretraining_steps == 0 and self.num_timesteps == 0:
            warnings.warn(
                f"{name} starts with an untrained safety critic, so that its filter is random: "
                "call pretrain(dataset) first, or expect violations",
                stacklevel=2,
            )
        if self.n_offline and self.offline_buffer is None and self.online_updates:
            warnings.warn(
                f"the {self.n_offline} offline transitions are not part of a saved model: "
                "call pretrain(dataset, steps=0) to train on with them, or use save_checkpoint",
                stacklevel=2,
            )
        return super().learn(total_timesteps, *args, **kwargs)

    def _checked(self, dataset: Transitions, check_env_id: bool) -> Transitions:
        """Recorded transitions as the model sees them (images with their channels first), if they fit."""
        if not isinstance(dataset, Transitions):
            raise TypeError(
                f"offline data must be Transitions (safe_envs.collect_constraint_data makes some), got {dataset!r}"
            )
        if check_env_id:
            self._check_origin(dataset)
        names = ("observations", "next_observations")
        seen = {name: channels_first(getattr(dataset, name), self.observation_space) for name in names}
        dataset = replace(dataset, **seen)
        dataset.check_spaces(self.observation_space, self.action_space)
        return dataset

    def _buffer_of(self, dataset: Transitions) -> CostStorage:
        return offline_buffer(dataset, self.observation_space, self.action_space, self.device)

    def use_critic(self, critic: SafetyCritic) -> Self:
        """Go on from a copy of a safety critic that was trained elsewhere, e.g. by MESA; its optimiser comes with it.

        What depends on it (a recovery policy) starts anew: call it before ``pretrain``. Its inputs stay scaled as it
        learned them, also with ``scale_inputs``, and its settings (learning rate, ``tau``, loss) come with it. A critic
        that learned under ``VecNormalize`` expects observations that are normalised alike.

        Args:
            critic: of the same spaces, kind and discount; its networks may have another form.

        Raises:
            ValueError: naming what differs.
        """
        own = self.safety_critic
        for name in ("observation_space", "action_space", "kind", "gamma_risk"):
            if getattr(critic, name) != getattr(own, name):
                raise ValueError(
                    f"the critic's {name} is {getattr(critic, name)!r}, this model's is {getattr(own, name)!r}"
                )
        self.risk_kwargs = {key: critic.config[key] for key in critic.config if key not in ("kind", "gamma_risk")}
        with self._random_streams_kept():
            self._setup_safety()
        self._fuse_networks()
        self.safety_critic.load_state_dict(critic.state_dict())
        self.safety_critic.optimizer.load_state_dict(critic.optimizer.state_dict())
        self.scale_inputs, self.n_offline = False, 0
        self.pretraining_steps = max(self.pretraining_steps, 1)  # it knows something
        return self

    def _check_origin(self, dataset: Transitions) -> None:
        spec = None if self.env is None else self.env.get_attr("spec")[0]
        if dataset.env_id is not None and spec is not None and spec.id != dataset.env_id:
            raise ValueError(
                f"the data set was recorded in {dataset.env_id!r}, the model trains in {spec.id!r}: "
                "collect data there, or pass check_env_id=False if the two do agree"
            )

    def _fit_normalisation(self, dataset: Transitions) -> None:
        env = self._vec_normalize_env
        if env is not None and env.norm_obs:
            rms = env.obs_rms if isinstance(env.obs_rms, dict) else {None: env.obs_rms}
            for key, stats in rms.items():
                if stats.count <= 1.0:  # a fresh RunningMeanStd counts its epsilon only
                    stats.update(np.asarray(dataset.observations if key is None else dataset.observations[key]))
        if self.scale_inputs and self.pretraining_steps == self._n_updates == 0:  # what has learned keeps its scale
            rows = dataset.observations
            self.safety_critic.scale_inputs(rows if env is None else env.normalize_obs(copy.deepcopy(rows)))

    # ------------------------------------------------------------------ training

    def _next_actions(self, batch: CostBatch) -> tuple[th.Tensor, th.Tensor]:
        self._drawn = super()._next_actions(batch)
        return self._drawn

    def _safety_step(self, batch: CostBatch) -> None:
        if not self.online_updates:
            return
        if self._shares_batches():
            self._risk_step(batch, self._drawn[0])
        else:
            self._risk_step()

    def _shares_batches(self) -> bool:
        """Whether the safety critic would draw its batches from the same distribution as SAC does.

        It then learns from SAC's batch, with the next actions that SAC drew: about 1 of 17 ms a step of SACLag.
        """
        hindsight = isinstance(self.replay_buffer, HerReplayBuffer)
        return self.offline_buffer is None and self.positive_fraction is None and not hindsight

    def _risk_batch(self, batch_size: int | None = None) -> CostBatch:
        """A batch of the offline and the online transitions together."""
        filled = [b for b in (self.offline_buffer, self.replay_buffer) if b is not None and b.size() > 0]
        return sample_union(filled, batch_size or self.batch_size, self._vec_normalize_env, self.positive_fraction)  # type: ignore

    def _risk_step(self, batch: CostBatch | None = None, next_actions: th.Tensor | None = None) -> None:
        """One update of the safety critic, and of what follows it on the same batch."""
        batch = self._risk_batch() if batch is None else batch
        loss = self.safety_critic.update(batch, self._risk_next_actions(batch, next_actions))
        self._metrics["safety/critic_loss"].append(loss)
        self._follow_risk(batch)

    def _risk_next_actions(self, batch: CostBatch, actions: th.Tensor | None = None) -> th.Tensor:
        """Actions ``[B, A]`` for the target of the risk; ``actions`` are those of the task policy, if known."""
        with th.no_grad():
            obs = batch.next_observations
            if actions is None:
                actions = self.actor(obs)
            if self.composite and self.selector is not None:
                actions, _ = self.selector.select(obs, actions, lambda n: self._propose(obs, n), deterministic=False)
        return actions

    def _follow_risk(self, batch: CostBatch) -> None:
        """Train what depends on the safety critic, e.g. a recovery policy."""
