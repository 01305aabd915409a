"""The other side of a learner: a model that only acts, and what it sends. Nothing here knows how it is sent."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch as th
from gymnasium.spaces import Box
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ext.recurrent.recurrent_sac_lag import RecurrentSACLag
from sb3_ext.recurrent.sequence_buffer import SequenceReplayBuffer

ACTING = ("trunk", "actor")  # the modules that an actor needs
Stream = tuple[NDArray[Any], NDArray[np.float32]]


class Push(NamedTuple):
    """What an actor sends.

    Attributes:
        actor: its number.
        n_steps: steps, of all its environments together.
        streams: new entries and hidden states of each environment.
        costs: of the episodes that ended.
        n_violating: how many of these violated the constraint.
        episodes: what ``Monitor`` said of them.
        successes: whether they succeeded, where the environment says so.
    """

    actor: int
    n_steps: int
    streams: list[Stream]
    costs: list[float]
    n_violating: int
    episodes: list[dict[str, Any]]
    successes: list[Any]


class Outbox(SequenceReplayBuffer):
    """Takes the place of an actor's replay buffer and keeps what is to be sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unsent: list[list[Stream]] = [[] for _ in range(self.n_envs)]

    def append(self, env: int, rows: NDArray[Any], hidden: NDArray[np.float32]) -> None:
        """Keep entries of one environment."""
        self._unsent[env].append((rows.copy(), hidden.copy()))

    def flush(self) -> list[Stream]:
        """All entries since the last call, joined for each environment."""
        pieces, self._unsent = self._unsent, [[] for _ in range(self.n_envs)]
        return [(np.concatenate([p[0] for p in own]), np.concatenate([p[1] for p in own])) for own in pieces]


class Actor:
    """A model that collects and never learns; runs in a process of its own.

    Args:
        kind: class of the model.
        saved: what its ``save`` wrote.
        make_env: makes an environment, or a VecEnv with all of them.
        n_envs: number of environments.
        index: number of this actor.
        seed: of environments and exploration; None: random.
    """

    def __init__(
        self, kind: type[RecurrentSACLag], saved: bytes, make_env: Callable[[], Any], n_envs: int, index: int,
        seed: int | None,
    ) -> None:  # fmt: skip
        th.set_num_threads(1)
        self.index = index
        env = vectorized(make_env, n_envs)
        model = kind.load(io.BytesIO(saved), env=env, device="cpu", seed=seed)
        spaces = model.observation_space, cast(Box, model.action_space)
        self.outbox = Outbox(model.buffer_size, *spaces, "cpu", n_envs, **model.replay_buffer_kwargs)
        model.replay_buffer = self.outbox
        _, self.callback = model._setup_learn(1)
        self.model = model

    def collect(self, weights: dict[str, th.Tensor], num_timesteps: int, steps: int) -> Push:
        """Act with these weights.

        Args:
            weights: of the modules that act.
            num_timesteps: of the whole run; decides whether actions are still random.
            steps: for each environment.
        """
        model = self.model
        model.policy.load_state_dict(weights, strict=False)
        model.num_timesteps, violating = num_timesteps, model.n_violating_episodes
        model.ep_cost_buffer, model.ep_info_buffer, model.ep_success_buffer = deque(), deque(), deque()
        rollout = model.collect_rollouts(
            model.env, self.callback, TrainFreq(steps, TrainFrequencyUnit.STEP), self.outbox,
            learning_starts=model.learning_starts,
        )  # fmt: skip
        return Push(
            self.index, rollout.episode_timesteps, self.outbox.flush(), list(model.ep_cost_buffer),
            model.n_violating_episodes - violating, list(model.ep_info_buffer), list(model.ep_success_buffer),
        )  # fmt: skip


def acting_weights(model: RecurrentSACLag) -> dict[str, th.Tensor]:
    """What ``Actor.collect`` needs of the learner."""
    policy = model.policy
    return {f"{m}.{k}": v.cpu() for m in ACTING for k, v in getattr(policy, m).state_dict().items()}


def ingest(model: RecurrentSACLag, push: Push, envs_per_actor: int, log_interval: int | None) -> None:
    """Take over what an actor has sent: entries, costs and episodes."""
    for i, (rows, hidden) in enumerate(push.streams):
        model.replay_buffer.append(push.actor * envs_per_actor + i, rows, hidden)
    model.num_timesteps += push.n_steps
    model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
    model.ep_cost_buffer.extend(push.costs)
    model.n_episodes += len(push.costs)
    model.n_violating_episodes += push.n_violating
    assert model.ep_info_buffer is not None and model.ep_success_buffer is not None
    model.ep_info_buffer.extend(push.episodes)
    model.ep_success_buffer.extend(push.successes)
    before, model._episode_num = model._episode_num, model._episode_num + len(push.costs)
    if log_interval is not None and before // log_interval < model._episode_num // log_interval:
        model.dump_logs()


def vectorized(make_env: Callable[[], Any], n_envs: int) -> VecEnv:
    """``n_envs`` environments side by side.

    Raises:
        ValueError: if ``make_env`` makes a VecEnv of another number.
    """
    first = make_env()
    if not isinstance(first, VecEnv):
        return DummyVecEnv([lambda: Monitor(first), *[lambda: Monitor(make_env())] * (n_envs - 1)])
    if first.num_envs != n_envs:
        raise ValueError(f"make_env made a VecEnv of {first.num_envs} environments, expected envs_per_actor={n_envs}")
    return first
