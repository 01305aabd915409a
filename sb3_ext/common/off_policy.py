"""What SafeSAC and SafeTD3 share: cost buffers, two actions, filtered ``predict``, interventions."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.her import HerReplayBuffer

from safe_wrappers.info import EXECUTED_ACTION, INTERVENED, PROPOSED_ACTION
from sb3_ext.common.buffers import (
    CostDictReplayBuffer,
    CostHerReplayBuffer,
    CostReplayBuffer,
    CostStorage,
    cost_buffer_class,
    scale_action,
    unscale_action,
)
from sb3_ext.common.cost_off_policy import CostOffPolicy
from sb3_ext.common.fused import fuse
from sb3_ext.common.optim import FusedAdam
from sb3_ext.common.safe_algorithm import MissingCost
from sb3_ext.common.selectors import ActionSelector

COUNTERPARTS: dict[type[ReplayBuffer], type[CostStorage]] = {
    ReplayBuffer: CostReplayBuffer, DictReplayBuffer: CostDictReplayBuffer, HerReplayBuffer: CostHerReplayBuffer
}  # fmt: skip


class SafeOffPolicy(CostOffPolicy):
    """Mixin for off-policy bases with Box actions; it comes before the base in the list of parents.

    ``info`` of a step gets the proposed and the executed action and whether the filter intervened after callbacks have
    seen it: a callback reads ``model.last_intervened``.

    A subclass lists its stateful ``parts``, builds them in ``_setup_safety`` and may set ``selector``. Everything
    else follows from that.
    """

    default_missing_cost: ClassVar[MissingCost] = "raise"
    transient: ClassVar[tuple[str, ...]] = (
        *CostOffPolicy.transient, "selector", "last_intervened", "_selection", "_proposing",
    )  # fmt: skip

    selector: ActionSelector | None
    relabel: bool = True
    """Whether the base learns from the proposed actions, or from the executed ones."""
    optimize: Literal["sb3", "fused"]

    def __init__(
        self,
        policy: Any,
        env: Any,
        *args: Any,
        missing_cost: MissingCost | None = None,
        optimize: Literal["sb3", "fused"] = "sb3",
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        self._start_counting(self.default_missing_cost if missing_cost is None else missing_cost)
        if optimize not in ("sb3", "fused"):
            raise ValueError(f"optimize must be 'sb3' or 'fused', got {optimize!r}")
        self.optimize = optimize
        if kwargs.get("policy_kwargs"):  # SB3 writes into it
            kwargs["policy_kwargs"] = dict(kwargs["policy_kwargs"])
        try:
            super().__init__(policy, env, *args, _init_setup_model=False, **kwargs)  # type: ignore[call-arg]
        except AssertionError as error:
            if "only supports" not in str(error):
                raise
            raise ValueError(
                f"{type(self).__name__} needs a Box action space ({error}); PPOLag, TRPOLag and CPO take any"
            ) from error
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        self._choose_buffer()
        if self.optimize == "fused":
            optimizer_kwargs = {**(self.policy_kwargs.get("optimizer_kwargs") or {}), "fused": True}
            self.policy_kwargs = {
                "optimizer_class": FusedAdam, **self.policy_kwargs, "optimizer_kwargs": optimizer_kwargs
            }  # fmt: skip
        super()._setup_model()
        self.selector = None
        self.last_intervened: NDArray[np.bool_] = np.zeros(self.n_envs, dtype=bool)
        self._selection: tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]] | None = None
        self._proposing = False
        self._metrics = defaultdict(list)
        self._build_parts()
        self._fuse_networks()

    def _fuse_networks(self) -> None:
        if self.optimize == "fused":
            for module in (self.policy, *(getattr(self, part) for part in self.parts)):
                if isinstance(module, th.nn.Module):
                    fuse(module)

    def _move_target(self, online: th.nn.Module, target: th.nn.Module) -> None:
        """Polyak averaging with rate ``tau``."""
        if self.optimize == "sb3":
            polyak_update(online.parameters(), target.parameters(), self.tau)
        else:
            with th.no_grad():
                th._foreach_lerp_(list(target.parameters()), list(online.parameters()), self.tau)

    def _choose_buffer(self) -> None:
        if self.n_steps > 1:
            raise ValueError(f"n_steps must be 1: n-step returns are not defined for risks here, got {self.n_steps}")
        if self.optimize_memory_usage:
            raise ValueError("optimize_memory_usage=True is not supported by the cost buffers; leave it False")
        chosen = self.replay_buffer_class
        if chosen is None:
            chosen = cost_buffer_class(self.observation_space)
        chosen = COUNTERPARTS.get(chosen, chosen)
        if not issubclass(chosen, CostStorage):
            raise ValueError(f"replay_buffer_class must keep costs (one of sb3_ext's), got {chosen.__name__}")
        self.replay_buffer_class = chosen
        self.replay_buffer_kwargs = {**self.replay_buffer_kwargs, "missing_cost": self.missing_cost}

    # ------------------------------------------------------------------ acting

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """The action that the deployed agent executes, filter included (see SB3's ``predict``).

        ``last_intervened`` then says for which observations the filter replaced the proposed action.
        """
        action, state = super().predict(observation, state, episode_start, deterministic)
        if self.selector is None or self._proposing:
            return action, state
        vectorized = self.policy.is_vectorized_observation(observation)
        proposed = scale_action(action, self.action_space).reshape(-1, *self._action_shape)
        executed = self._select(observation, proposed, deterministic, warm_up=False)
        actions = self._replace(action.reshape(proposed.shape), proposed, executed)
        return actions if vectorized else actions[0], state

    @property
    def _action_shape(self) -> tuple[int, ...]:
        return self.action_space.shape or ()

    def _select(self, observation: Any, proposed: NDArray[Any], deterministic: bool, warm_up: bool) -> NDArray[Any]:
        """Filter scaled actions ``[B, ...]``; remembers where the filter intervened."""
        assert self.selector is not None
        obs, _ = self.policy.obs_to_tensor(observation)
        actions = th.as_tensor(proposed, dtype=th.float32, device=self.device).flatten(1)

        def propose(n: int) -> tuple[th.Tensor, th.Tensor]:
            if warm_up:
                uniform = th.rand(n, *actions.shape, device=self.device) * 2.0 - 1.0
                return uniform, th.zeros(uniform.shape[:2], device=self.device)
            return self._propose(obs, n)

        # Deterministic means that asking twice gives the same: candidates then come from a stream of their own.
        with th.no_grad(), self._random_streams_kept(deterministic):
            if deterministic:
                self._seed_own_device(0)
            executed, refused = self.selector.select(obs, actions, propose, deterministic)
        self.last_intervened = refused.cpu().numpy()
        return executed.cpu().numpy().reshape(proposed.shape)

    def _seed_own_device(self, seed: int) -> None:
        th.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with th.cuda.device(self.device):
                th.cuda.manual_seed(seed)

    def _replace(self, action: NDArray[Any], proposed: NDArray[Any], executed: NDArray[Any]) -> NDArray[Any]:
        """``action`` (environment units), changed only where ``executed`` differs from ``proposed`` (scaled)."""
        same = (executed == proposed).reshape(len(proposed), -1).all(axis=1)
        replaced = unscale_action(executed, self.action_space)
        replaced[same] = action[same]
        return replaced

    def _propose(self, obs: Any, n: int) -> tuple[th.Tensor, th.Tensor]:
        """``n`` more actions of the policy ``[n, B, A]`` with their log-densities ``[n, B]``."""
        raise NotImplementedError

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """SB3's proposal (warm-up and exploration noise included), then the filter; both actions are kept."""
        with self._unfiltered():
            action, proposed = super()._sample_action(learning_starts, action_noise, n_envs)
        if self.selector is None:
            return action, proposed
        warm_up = self.num_timesteps < learning_starts
        executed = self._select(self._last_obs, proposed, deterministic=False, warm_up=warm_up)
        executed_action = self._replace(action, proposed, executed)
        self._selection = (action, executed_action, self.last_intervened)
        return executed_action, proposed if self.relabel else executed

    @contextlib.contextmanager
    def _unfiltered(self) -> Iterator[None]:
        self._proposing = True
        try:
            yield
        finally:
            self._proposing = False

    # ------------------------------------------------------------------ bookkeeping

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """SB3's ``set_env``; hindsight then asks the new environment for its rewards."""
        super().set_env(env, force_reset)
        if isinstance(self.replay_buffer, HerReplayBuffer):
            self.replay_buffer.env = self.env

    def _reset_counts(self, window: int) -> None:
        super()._reset_counts(window)
        self.n_interventions = 0

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_] | None = None) -> None:
        if self._selection is not None:
            # Not last_intervened: a callback may have called predict since, SafeEvalCallback does.
            proposed, executed, intervened = self._selection
            for i, info in enumerate(infos):  # a filter among the wrappers comes later, so its entry stays
                info.setdefault(EXECUTED_ACTION, executed[i])
                info[PROPOSED_ACTION] = proposed[i]
                info[INTERVENED] = bool(intervened[i]) or bool(info.get(INTERVENED, False))
            self._selection = None
        super()._update_info_buffer(infos, dones)
        self.n_interventions += sum(bool(info.get(INTERVENED, False)) for info in infos)

    def dump_logs(self) -> None:
        """Write SB3's logs, the costs and how often a filter acted."""
        if self.selector is not None or self.n_interventions:  # its own, or one among the wrappers
            self.logger.record("safety/intervention_rate", self.n_interventions / max(self.num_timesteps, 1))
        super().dump_logs()
