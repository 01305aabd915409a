"""Actors in other processes or on other machines, by Ray, that feed one learner (safe transfer, section 2.1)."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_ext.recurrent.actors import Actor, Push, acting_weights, ingest
from sb3_ext.recurrent.recurrent_sac_lag import RecurrentSACLag

MAX_FAILURES = 3  # in a row, of one actor; then its error is raised instead of starting it again


class Crew:
    """The actors as the learner sees them: asked, heard, and started again when they die.

    Args:
        model: the learner, from which actors are made.
        make_env: see ``Actor``.
        num_actors: how many.
        envs_per_actor: environments of each.
        steps: that an actor makes, in each of its environments, before it sends them.
    """

    def __init__(
        self, model: RecurrentSACLag, make_env: Callable[[], Any], num_actors: int, envs_per_actor: int, steps: int
    ) -> None:
        self.ray, self.model, self.steps = import_ray(), model, steps
        self.make_env, self.envs_per_actor = make_env, envs_per_actor
        self._kind = self.ray.remote(Actor)
        self._saved = _saved(model)
        self._started, self._failures = [0] * num_actors, [0] * num_actors
        self.actors = [self._start(i) for i in range(num_actors)]
        self._pending: dict[Any, int] = {}

    def _start(self, index: int) -> Any:
        again, begun = self._started[index], self.model.num_timesteps + self.model.n_episodes
        self._started[index] += 1
        # The very first actor of a run is what the learner would have been; any other sees and tries something new.
        seed = self.model.seed
        if seed is not None and (index, again, begun) != (0, 0, 0):
            seed = int(np.random.SeedSequence([seed, index, again, begun]).generate_state(1)[0] % 2**31)
        return self._kind.remote(type(self.model), self._saved, self.make_env, self.envs_per_actor, index, seed)

    def ask(self) -> None:
        """Send the weights to all actors that have nothing to do, and let them collect."""
        idle = [i for i in range(len(self.actors)) if i not in self._pending.values()]
        if not idle:
            return
        weights = self.ray.put(acting_weights(self.model))
        for i in idle:
            future = self.actors[i].collect.remote(weights, self.model.num_timesteps, self.steps)
            self._pending[future] = i

    def hear(self, everyone: bool) -> list[Push]:
        """What the first actors that are ready send, or all; dead ones are replaced, and what they had is lost.

        Raises:
            RayActorError: if an actor dies time after time.
            ObjectLostError: if what it sends is lost time after time, with the machine that it was on.
        """
        lost = (self.ray.exceptions.RayActorError, self.ray.exceptions.ObjectLostError)
        ready, _ = self.ray.wait(list(self._pending), num_returns=len(self._pending) if everyone else 1)
        pushes = []
        for future in ready:
            index = self._pending.pop(future)
            try:
                pushes.append(self.ray.get(future))
                self._failures[index] = 0
            except lost:
                self._failures[index] += 1
                if self._failures[index] >= MAX_FAILURES:
                    raise
                self.ray.kill(self.actors[index])  # it may live on, and only be out of reach
                self.actors[index] = self._start(index)
        return sorted(pushes, key=lambda push: push.actor)

    def dismiss(self) -> None:
        """End the actors."""
        for actor in self.actors:
            self.ray.kill(actor)


def learn_distributed(
    model: RecurrentSACLag,
    make_env: Callable[[], Any],
    total_timesteps: int,
    *,
    num_actors: int = 2,
    envs_per_actor: int = 30,
    steps_per_push: int | None = None,
    lockstep: bool = False,
    address: str | None = None,
    callback: Any = None,
    log_interval: int | None = 4,
    tb_log_name: str = "run",
    reset_num_timesteps: bool = True,
) -> RecurrentSACLag:
    """``model.learn``, with actors in other processes: they push sequences, and pull weights before each rollout.

    The model's own environment is not stepped, its spaces count. The replay buffer is emptied where it held another
    number of environments. After each push the learner makes its share of
    ``gradient_steps``, so that ``train_freq`` steps of all environments come with ``gradient_steps`` updates, as
    in one process. An actor that dies is started again and loses what it had not sent. For a learner that may die, save
    ``model.save_checkpoint`` in a callback, and call this again on what ``load_checkpoint`` gives, with
    ``reset_num_timesteps=False``; the actors then start new episodes.

    Args:
        model: the learner.
        make_env: makes one environment, or a VecEnv of ``envs_per_actor``; it is called in the actors.
        total_timesteps: steps of all environments together.
        num_actors: processes.
        envs_per_actor: environments in each (the paper's 60 actors: 2 x 30 on two cores).
        steps_per_push: steps in each environment between pushes; None: the model's ``train_freq``.
        lockstep: actors wait for the learner, and the learner for all of them: the same seed gives the same run, and
            one actor gives bit for bit what ``model.learn`` gives. If not, they collect while the learner learns.
        address: of a running Ray cluster; None: Ray is started here, unless it runs already, and stopped at the end.
        callback: as in SB3, but its ``on_step`` is called once for each push, and there are no ``infos`` in ``locals``.
        log_interval: episodes between logs; None: no logs.
        tb_log_name: as in SB3.
        reset_num_timesteps: as in SB3.

    Raises:
        DependencyNotInstalled: without Ray.
        ValueError: for numbers below 1, a ``train_freq`` in episodes, or a model under ``VecNormalize``.

    Examples:
        >>> from sb3_ext.recurrent.ray_actors import learn_distributed
        >>> learn_distributed(model, make_env, 60_000, num_actors=2, envs_per_actor=30)  # doctest: +SKIP
    """
    steps = _check(model, num_actors, envs_per_actor, steps_per_push)
    ray = import_ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
    if model.replay_buffer.n_envs != num_actors * envs_per_actor:
        model.reset_replay(num_actors * envs_per_actor)
    try:
        total, callbacks = model._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name)
        crew = Crew(model, make_env, num_actors, envs_per_actor, steps)
        callbacks.on_training_start(locals(), globals())
        try:
            _learn(model, crew, callbacks, total, log_interval, lockstep)
        finally:
            crew.dismiss()
            model._last_obs = None  # the streams went on elsewhere: learn() must not continue its own
        callbacks.on_training_end()
    finally:
        if ours:
            ray.shutdown()
    return model


def _learn(
    model: RecurrentSACLag, crew: Crew, callback: BaseCallback, total: int, log_interval: int | None, lockstep: bool
) -> None:
    assert isinstance(model.train_freq, TrainFreq)
    # An epoch of train_freq steps of all environments comes with gradient_steps updates; -1: as many as steps.
    per_epoch, epoch = model.gradient_steps, model.train_freq.frequency * model.replay_buffer.n_envs
    earned = 0
    while model.num_timesteps < total:
        crew.ask()
        pushes = crew.hear(everyone=lockstep)
        if not lockstep:
            crew.ask()  # they go on while this process learns
        for push in pushes:
            ingest(model, push, crew.envs_per_actor, log_interval)
            callback.update_locals(locals())
            if not callback.on_step():
                return
            if model.num_timesteps > model.learning_starts:
                earned += push.n_steps * (per_epoch if per_epoch >= 0 else epoch)
        updates, earned = divmod(earned, epoch)
        if updates > 0:
            model.train(gradient_steps=updates, batch_size=model.batch_size)


def _saved(model: RecurrentSACLag) -> bytes:
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def import_ray() -> Any:
    """Ray.

    Raises:
        DependencyNotInstalled: with the line that installs it.
    """
    try:
        import ray
    except ImportError as error:
        raise gym.error.DependencyNotInstalled(
            'distributed learning needs Ray: pip install "sb3-safe[ray]"; model.learn() needs nothing'
        ) from error
    return ray


def _check(model: RecurrentSACLag, num_actors: int, envs_per_actor: int, steps_per_push: int | None) -> int:
    """Steps between pushes."""
    if not isinstance(model, RecurrentSACLag):
        raise ValueError(f"only RecurrentSACLag learns from actors, got a {type(model).__name__}")
    assert isinstance(model.train_freq, TrainFreq)
    if model.train_freq.unit != TrainFrequencyUnit.STEP:
        raise ValueError(f"train_freq must be in steps for actors of many environments, got {model.train_freq}")
    steps = model.train_freq.frequency if steps_per_push is None else steps_per_push
    for name, value in (("num_actors", num_actors), ("envs_per_actor", envs_per_actor), ("steps_per_push", steps)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if model.get_vec_normalize_env() is not None:
        raise ValueError("VecNormalize cannot be shared by actors: scale in wrappers of each environment")
    if model.env is None:
        raise ValueError("the model has no environment: load it with env=, whose spaces and seed are needed")
    return steps
