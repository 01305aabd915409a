"""Replay buffers that keep the cost, the violation and the executed action of every transition."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer

from safe_wrappers.actions import executed_action
from safe_wrappers.info import EXECUTED_ACTION, read_cost, read_violation
from safe_wrappers.observations import map_entries, take_rows
from safe_wrappers.transitions import Transitions

Rows = tuple[NDArray[np.intp], NDArray[np.intp]]


class CostBatch(NamedTuple):
    """A batch of ``B`` transitions; the first six fields are those of SB3's ``ReplayBufferSamples``.

    Actions are scaled to [-1, 1]. ``actions`` are the proposed ones (they train the reward critic and the task
    policy), ``executed_actions`` those that the environment received (they train the risk critic). ``dones`` leave
    out the ends by time limit, ``timeouts`` are these.
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    next_observations: th.Tensor | TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    costs: th.Tensor
    violations: th.Tensor
    executed_actions: th.Tensor
    timeouts: th.Tensor | None = None
    raw_observations: th.Tensor | TensorDict | None = None
    """Only of ``normalised``."""

    def join(self, *others: CostBatch) -> CostBatch:
        """This batch and the others after one another."""
        return CostBatch(*map(_concatenate, zip(self, *others, strict=True)))


def scale_action(action: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    """Environment units -> [-1, 1] for Box spaces; others unchanged."""
    if not isinstance(space, spaces.Box):
        return action
    return (2.0 * ((action - space.low) / (space.high - space.low)) - 1.0).astype(np.float32)


def unscale_action(action: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    """[-1, 1] -> environment units for Box spaces; others unchanged."""
    if not isinstance(space, spaces.Box):
        return action
    return (space.low + 0.5 * (action + 1.0) * (space.high - space.low)).astype(space.dtype)


def normalised(batch: CostBatch, normalizer: VecNormalize) -> CostBatch:
    """What sampling through ``normalizer`` gives, of a raw batch, and raw observations: it cuts extreme ones off."""

    def seen(obs: Any) -> Any:
        found = normalizer.normalize_obs(map_entries(lambda entries: entries.cpu().numpy(), obs))
        return map_entries(lambda entries: th.as_tensor(entries, device=batch.rewards.device), found)

    return batch._replace(
        observations=seen(batch.observations),
        next_observations=seen(batch.next_observations),
        rewards=th.as_tensor(normalizer.normalize_reward(batch.rewards.cpu().numpy())).to(batch.rewards),
        raw_observations=batch.observations,
    )


class CostStorage(ReplayBuffer):
    """What the cost buffers add to SB3's: three more columns, read strictly from ``info``."""

    def __init__(self, *args: Any, missing_cost: str = "raise", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.missing_cost = missing_cost
        self.costs = np.zeros((self.buffer_size, self.n_envs), dtype=np.float32)
        self.violations = np.zeros((self.buffer_size, self.n_envs), dtype=np.float32)
        self.executed_actions = np.zeros_like(self.actions)

    def add(
        self, obs: Any, next_obs: Any, action: NDArray[Any], reward: NDArray[Any], done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        """Store one transition of every environment; the executed action is ``info["executed_action"]`` if there."""
        self.costs[self.pos] = [read_cost(info, self.missing_cost) for info in infos]
        self.violations[self.pos] = [read_violation(info, self.missing_cost) for info in infos]
        executed = np.array(action, copy=True).reshape(self.n_envs, self.action_dim)
        for i, info in enumerate(infos):
            if EXECUTED_ACTION in info:
                own = unscale_action(executed[i].reshape(self.action_space.shape), self.action_space)
                executed[i] = scale_action(executed_action(info, own, self.action_space), self.action_space).reshape(-1)
        self.executed_actions[self.pos] = executed
        super().add(obs, next_obs, action, reward, done, infos)

    def gather(self, rows: Rows, env: VecNormalize | None = None) -> CostBatch:
        """The transitions at ``rows`` = (positions [B], environment indices [B]), normalised by ``env`` if given."""
        dones = self.dones[rows] * (1.0 - self.timeouts[rows])  # a time-out is no end: critics bootstrap through it
        return CostBatch(
            observations=self._tensors(self._normalize_obs(take_rows(self.observations, rows), env)),
            actions=self.to_torch(self.actions[rows]),
            next_observations=self._tensors(self._normalize_obs(take_rows(self.next_observations, rows), env)),
            dones=self.to_torch(dones.reshape(-1, 1)),
            rewards=self.to_torch(self._normalize_reward(self.rewards[rows].reshape(-1, 1), env)),
            discounts=None,
            costs=self.to_torch(self.costs[rows].reshape(-1, 1)),
            violations=self.to_torch(self.violations[rows].reshape(-1, 1)),
            executed_actions=self.to_torch(self.executed_actions[rows]),
            timeouts=self.to_torch(self.timeouts[rows].reshape(-1, 1)),
        )

    def _get_samples(self, batch_inds: NDArray[np.intp], env: VecNormalize | None = None) -> Any:
        # The same draw, in the same order, as SB3's buffers: seeds agree with plain SAC and TD3.
        return self.gather((batch_inds, np.random.randint(0, high=self.n_envs, size=len(batch_inds))), env)

    def _tensors(self, obs: Any) -> Any:
        return map_entries(self.to_torch, obs)

    def __getstate__(self) -> dict[str, Any]:
        """Only the filled rows are pickled: a million-row buffer after 1,000 steps is a small file."""
        parent: Any = super()
        state = parent.__getstate__() if isinstance(self, HerReplayBuffer) else self.__dict__.copy()
        if self.full:
            return dict(state)
        return {key: _head(value, self.buffer_size, self.pos) for key, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, with room for ``buffer_size`` rows again."""
        self.__dict__.update({key: _grow(value, state["buffer_size"]) for key, value in state.items()})
        if isinstance(self, HerReplayBuffer):
            self.env = None


class _Head(NamedTuple):
    """The filled first rows of an array that is larger in memory."""

    rows: NDArray[Any]


def _head(value: Any, capacity: int, filled: int) -> Any:
    if isinstance(value, dict):
        return {key: _head(part, capacity, filled) for key, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype != object and value.ndim >= 2 and len(value) == capacity:
        return _Head(value[:filled])
    return value


def _grow(value: Any, capacity: int) -> Any:
    if isinstance(value, dict):
        return {key: _grow(part, capacity) for key, part in value.items()}
    if isinstance(value, _Head):
        whole = np.zeros((capacity, *value.rows.shape[1:]), dtype=value.rows.dtype)
        whole[: len(value.rows)] = value.rows
        return whole
    return value


def forget_last_step(model: Any) -> None:
    """Before the next step of training begins a new episode, in environments that someone else has moved.

    Else the next transition would lead from the old episode into the new one, and hindsight relabelling would take
    both for one.
    """
    model._last_obs = None
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that it does what it is asked to
            buffer.truncate_last_trajectory()


class CostReplayBuffer(CostStorage):
    """SB3's ``ReplayBuffer`` with costs; samples are ``CostBatch``."""


class CostDictReplayBuffer(CostStorage, DictReplayBuffer):
    """SB3's ``DictReplayBuffer`` with costs."""


class CostHerReplayBuffer(CostStorage, HerReplayBuffer):  # type: ignore[misc]  # SB3 types env twice
    """SB3's ``HerReplayBuffer`` with costs: a relabelled goal changes the reward, never the cost."""

    def reset(self) -> None:
        """Empty it, its list of episodes included."""
        super().reset()
        for column in (self.ep_start, self.ep_length, self._current_ep_start):
            column[:] = 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """A batch of real and relabelled transitions, each with the cost that was paid."""
        self._sampled: dict[str, Rows] = {}
        batch = super().sample(batch_size, env)
        parts = [self._sampled[name] for name in ("real", "virtual")]  # the order in which SB3 joins them
        rows = (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
        return CostBatch(
            batch.observations, batch.actions, batch.next_observations, batch.dones, batch.rewards, None,
            costs=self.to_torch(self.costs[rows].reshape(-1, 1)),
            violations=self.to_torch(self.violations[rows].reshape(-1, 1)),
            executed_actions=self.to_torch(self.executed_actions[rows]),
            timeouts=self.to_torch(self.timeouts[rows].reshape(-1, 1)),
        )  # fmt: skip

    def _get_real_samples(self, batch_indices: Any, env_indices: Any, env: VecNormalize | None = None) -> Any:
        self._sampled["real"] = (batch_indices, env_indices)
        return super()._get_real_samples(batch_indices, env_indices, env)

    def _get_virtual_samples(self, batch_indices: Any, env_indices: Any, env: VecNormalize | None = None) -> Any:
        self._sampled["virtual"] = (batch_indices, env_indices)
        return super()._get_virtual_samples(batch_indices, env_indices, env)


def cost_buffer_class(observation_space: spaces.Space[Any]) -> type[CostStorage]:
    """The plain cost buffer for observations of that kind."""
    return CostDictReplayBuffer if isinstance(observation_space, spaces.Dict) else CostReplayBuffer


def offline_buffer(
    transitions: Transitions,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: th.device | str,
) -> CostStorage:
    """A full buffer that holds recorded ``transitions`` (raw; they are normalised when sampled).

    Raises:
        ValueError: if the rows do not fit the spaces.
    """
    transitions.check_spaces(observation_space, action_space)
    buffer: Any = cost_buffer_class(observation_space)(len(transitions), observation_space, action_space, device=device)
    for name in ("observations", "next_observations"):
        map_entries(_fill, getattr(buffer, name), getattr(transitions, name))
    scaled = scale_action(np.asarray(transitions.actions), action_space)
    buffer.actions[:, 0] = buffer.executed_actions[:, 0] = scaled.reshape(len(transitions), -1)
    buffer.costs[:, 0], buffer.violations[:, 0] = transitions.costs, transitions.violations
    buffer.dones[:, 0] = transitions.terminals
    buffer.full = True
    return buffer


def harmless(dataset: Transitions) -> str:
    """What is wrong with data that show no violation."""
    return (
        f"shows no violation among {len(dataset)} transitions, so that nothing in it tells what is dangerous: record "
        "it without terminate_on_violation, or with a bolder policy"
    )


def _fill(column: NDArray[Any], rows: NDArray[Any]) -> None:
    column[:, 0] = rows.reshape(len(rows), *column.shape[2:])  # SB3 keeps a discrete observation as an array of one


def transitions_of(model: Any) -> Transitions:
    """What a model's replay buffer holds, with executed actions, as offline data for another model.

    Args:
        model: an off-policy model of this package that has learned a little.

    Raises:
        ValueError: if its buffer keeps no costs, or holds nothing.

    Examples:
        >>> import safe_envs
        >>> from sb3_ext import SafeSAC
        >>> model = SafeSAC("MlpPolicy", "safe/Navigation2-v0", seed=0).learn(20)
        >>> len(transitions_of(model))
        20
    """
    buffer = model.replay_buffer
    if not isinstance(buffer, CostStorage) or buffer.size() == 0:
        raise ValueError(f"expected a model with a cost buffer that holds transitions, got {model!r}")
    spec = None if model.env is None else model.env.get_attr("spec")[0]
    steps = np.arange(buffer.size()) if not buffer.full else np.roll(np.arange(buffer.buffer_size), -buffer.pos)

    def column(values: NDArray[Any]) -> NDArray[Any]:
        """Environment by environment, so that the rows of an episode follow one another."""
        return np.concatenate(list(values[steps].swapaxes(0, 1)))

    actions = column(buffer.executed_actions)
    shape = buffer.action_space.shape or ()

    def observed(values: Any, space: Any = buffer.observation_space) -> Any:
        if isinstance(values, dict):
            return {key: observed(part, space[key]) for key, part in values.items()}
        return column(values).reshape(-1, *space.shape)

    return Transitions(
        observed(buffer.observations),
        unscale_action(actions.reshape(-1, *shape), buffer.action_space),
        observed(buffer.next_observations),
        column(buffer.costs),
        column(buffer.violations) > 0.0,
        column(buffer.dones * (1.0 - buffer.timeouts)) > 0.0,
        None if spec is None else spec.id,
    )


def sample_union(
    buffers: Sequence[CostStorage],
    batch_size: int,
    env: VecNormalize | None = None,
    positive_fraction: float | None = None,
) -> CostBatch:
    """One batch from all buffers as if they were one.

    Args:
        buffers: at least one of them must not be empty.
        batch_size: number of transitions.
        env: normalises observations, as in SB3.
        positive_fraction: share of violating transitions in the batch; None: as they come.
    """
    bounds = np.cumsum([buffer.size() * buffer.n_envs for buffer in buffers])
    if positive_fraction is None:
        chosen = np.random.randint(0, bounds[-1], size=batch_size)
    else:
        chosen = _stratified(buffers, batch_size, positive_fraction)
    owner = np.searchsorted(bounds, chosen, side="right")
    batches = []
    for i, buffer in enumerate(buffers):
        own = chosen[owner == i] - (bounds[i - 1] if i else 0)
        if len(own):
            batches.append(buffer.gather(np.divmod(own, buffer.n_envs), env))
    return batches[0].join(*batches[1:]) if len(batches) > 1 else batches[0]


def _stratified(buffers: Sequence[CostStorage], batch_size: int, positive_fraction: float) -> NDArray[np.intp]:
    labels = np.concatenate([buffer.violations[: buffer.size()].reshape(-1) > 0 for buffer in buffers])
    positive, negative = np.flatnonzero(labels), np.flatnonzero(~labels)
    n_positive = round(positive_fraction * batch_size)
    if len(positive) == 0 or len(negative) == 0:  # one class only: nothing to balance
        return np.random.randint(0, len(labels), size=batch_size)
    return np.concatenate([np.random.choice(positive, n_positive), np.random.choice(negative, batch_size - n_positive)])


def _concatenate(parts: Any) -> Any:
    return None if parts[0] is None else map_entries(lambda *entries: th.cat(entries), *parts)
