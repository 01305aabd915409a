"""``RecurrentOffPolicy``: rollouts that carry a hidden state for each environment into the replay of sequences."""

from __future__ import annotations

import copy
import warnings
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_ext.common.buffers import scale_action, unscale_action
from sb3_ext.common.checkpoint import check_holds, readable
from sb3_ext.common.cost_off_policy import CostOffPolicy
from sb3_ext.recurrent.observations import ObservationLayout
from sb3_ext.recurrent.policy import RecurrentPolicy
from sb3_ext.recurrent.sequence_buffer import SequenceReplayBuffer


class RecurrentOffPolicy(CostOffPolicy):
    """Base of off-policy algorithms with a ``RecurrentPolicy`` and a ``SequenceReplayBuffer``.

    The hidden state of each environment lives in the model, is 0 where an episode starts, and is kept by checkpoints.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MultiInputPolicy": RecurrentPolicy, "CnnPolicy": RecurrentPolicy, "MlpPolicy": RecurrentPolicy
    }  # fmt: skip
    transient: ClassVar[tuple[str, ...]] = (*CostOffPolicy.transient, "_next_hidden", "_exploration")

    policy: RecurrentPolicy
    replay_buffer: SequenceReplayBuffer
    use_feedback: bool
    _hidden: NDArray[np.float32] | None = None
    _exploration: np.random.Generator
    _starts_trained = False

    def _setup_model(self) -> None:
        _check_normalizer(self.env, self.observation_space, self.use_feedback)
        super()._setup_model()

    def set_random_seed(self, seed: int | None = None) -> None:
        """SB3's, and seed the exploration.

        It has a stream of its own: actors in other processes explore as this one would, whatever the learner draws.
        And not the first environment's, which has the same seed.
        """
        super().set_random_seed(seed)
        self._exploration = np.random.default_rng(seed).spawn(1)[0]

    @property
    def has_learned(self) -> bool:
        """Whether its weights were trained, here or where they come from; then it never acts at random."""
        return self._starts_trained or self._n_updates > 0

    def start_from(self, path: Any) -> None:
        """Begin with the parameters of a trained model of the same sizes: weights, optimiser and multiplier.

        Counters, replay and settings stay this model's own. There are no random actions then; ``learning_starts`` is
        how many steps are gathered before the first update.

        Args:
            path: a file that ``save`` wrote.

        Raises:
            ValueError: if the file holds another algorithm, or the parameters do not fit.
        """
        with readable(path, type(self).__name__):
            check_holds(path, type(self))
        before: Any = copy.deepcopy(self.get_parameters())
        try:
            self.set_parameters(path, device=self.device)
        except ValueError:
            self.set_parameters(before, device=self.device)  # what fitted was already taken over
            raise
        self._starts_trained = True

    def reset_replay(self, n_streams: int | None = None) -> None:
        """Forget what was lived.

        Args:
            n_streams: environments that will be stored from now on; None: those of this process.
        """
        assert self.replay_buffer_class is not None
        n_streams = self.n_envs if n_streams is None else n_streams
        told = self.replay_buffer.buffer_size < self.buffer_size  # that memory is short
        self.replay_buffer.reset()  # its memory is free for the new one
        with warnings.catch_warnings():
            if told:
                warnings.simplefilter("ignore", UserWarning)
            self.replay_buffer = self.replay_buffer_class(
                self.buffer_size, self.observation_space, self.action_space, self.device, n_streams,
                **self.replay_buffer_kwargs,
            )  # type: ignore[assignment]  # fmt: skip

    def set_env(self, env: Any, force_reset: bool = True, reset_replay: bool = False) -> None:
        """Go on in another environment with the same spaces, with the multiplier as it is.

        Args:
            env: as in SB3.
            force_reset: as in SB3.
            reset_replay: forget what the old environment has shown.
        """
        super().set_env(env, force_reset)
        _check_normalizer(self.env, self.observation_space, self.use_feedback)
        if reset_replay:
            self.reset_replay()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._setup_learn(*args, **kwargs)
        if self._hidden is None or self._last_episode_starts.all():  # type: ignore[union-attr]
            self._hidden = self.policy.initial_state(self.n_envs)
        return prepared

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The next action in environment units and scaled; random ones move the hidden state on, too."""
        assert self._hidden is not None and self._last_episode_starts is not None
        arrays = self.policy.layout.arrays(self._last_obs)
        latent = self.policy.advance(arrays, self._hidden, self._last_episode_starts)
        self._next_hidden = latent.numpy(force=True)
        if self.num_timesteps < learning_starts and not self.has_learned:
            action = np.array([self.action_space.sample() for _ in range(n_envs)])
            return action, scale_action(action, self.action_space)
        shape = (n_envs, self.policy.actor.n_actions)
        noise = th.as_tensor(self._exploration.standard_normal(shape, dtype=np.float32), device=self.device)
        with th.no_grad():
            scaled = self.policy.actor(latent, noise)[0].numpy(force=True)
        scaled = scaled.reshape(n_envs, *(self.action_space.shape or ()))
        return unscale_action(scaled, self.action_space), scaled

    def _store_transition(
        self, replay_buffer: Any, buffer_action: Any, new_obs: Any, reward: Any, dones: NDArray[np.bool_], infos: Any
    ) -> None:
        assert self._hidden is not None and self._last_episode_starts is not None
        replay_buffer.stage(self._last_episode_starts, self._hidden)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self._hidden, self._last_episode_starts = self._next_hidden, np.array(dones, bool)

    def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        """See ``CostOffPolicy``.

        Raises:
            ValueError: if the replay buffer holds the streams of another number of environments.
        """
        if self.replay_buffer.n_envs != env.num_envs:
            raise ValueError(
                f"the replay buffer holds streams of {self.replay_buffer.n_envs} environments, there are "
                f"{env.num_envs}: call reset_replay(), or set_env(env, reset_replay=True), before learn()"
            )
        return super().collect_rollouts(env, callback, *args, **kwargs)


def _check_normalizer(env: Any, space: spaces.Space[Any], use_feedback: bool) -> None:
    """Raise ``ValueError`` if ``VecNormalize`` changes images: they are kept as bytes, which have no room for that."""
    normalizer = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
    if normalizer is None or not normalizer.norm_obs:
        return
    layout = ObservationLayout.of(space, use_feedback)
    whole = not isinstance(space, spaces.Dict)
    changed = sorted(layout.images) if whole else sorted(set(layout.images) & set(normalizer.norm_obs_keys or ()))
    if changed:
        raise ValueError(
            f"VecNormalize must leave images alone, but changes {changed}: make it with "
            f"norm_obs_keys={sorted(layout.vectors)}"
        )
