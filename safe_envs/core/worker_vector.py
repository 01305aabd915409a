"""``WorkerVectorEnv``: many environments in a few worker processes that share memory with their parent."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space, create_shared_memory
from numpy.typing import ArrayLike, NDArray

from safe_envs.core.vector import RESET_MASK_OPTION, reset_mask
from safe_envs.core.worker_memory import Column, copied, fill, shared_arrays, shared_space
from safe_envs.core.worker_pool import WorkerPool
from safe_envs.core.worker_process import STEP, Env, EnvReport, Job, StepReport

Factory = Callable[[], Env]
VectorStep = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class WorkerVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """``num_envs`` environments in ``num_workers`` processes, each stepping its share at one wake-up.

    Gymnasium's ``AsyncVectorEnv`` has one process for each environment, and pays for waking it, pickling its infos
    and crowding the caches. Here observations, actions, rewards, ends and the numbers among the infos lie in shared
    memory, and a step costs one message to each worker and, most of the time, an empty one back. Messages go through
    pipes: a semaphore would save some 12 us of CPU time a worker and step, but would not tell that a worker has died.

    Environments reset in the step that ends their episode (``SAME_STEP``; there is no other mode). Observations,
    rewards, ends and infos are those of Gymnasium's ``SyncVectorEnv`` in this mode, whatever the number of workers,
    except that ``cost``, ``cost_<term>``, ``constraint_violation`` and ``is_success`` belong to the step just taken
    even where an episode ended, as in ``TaskVectorEnv``: the sum of ``infos["cost"]`` is that of the episodes' costs.
    Infos of type ``np.bool_`` make an array of bool, not of objects.

    Workers run one thread each: variables like ``OMP_NUM_THREADS`` are set before anything is imported where the
    start method begins with a fresh interpreter; after a fork they reach what was not loaded yet, and PyTorch.

    Example:
        >>> from safe_envs import WorkerVectorEnv
        >>> envs = WorkerVectorEnv("safe/Navigation1-v0", num_envs=6, num_workers=2)
        >>> observations, infos = envs.reset(seed=0)
        >>> observations, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
        >>> infos["cost"].shape
        (6,)
        >>> envs.close()

    Args:
        env_fns: an environment's ID (``"module:ID"`` imports the module first), a function that creates one, or one
            function for each environment. Functions are pickled with cloudpickle, where the start method pickles. The
            first is also called once in the parent, to learn the spaces.
        num_envs: number of environments, >= 1; ``None``: as many as there are functions.
        num_workers: number of processes, 1 to ``num_envs``; ``None``: as many as this process may use cores.
        env_kwargs: arguments of ``gym.make``, where ``env_fns`` is an ID.
        context: ``"fork"``, ``"spawn"``, ``"forkserver"`` or ``None`` for the platform's.
        copy: whether observations are copied out of shared memory; without, the next ``step`` overwrites them.
        daemon: whether the processes are daemonic, which means that they may have no children.

    Raises:
        ValueError: if an argument is outside the values above.
        TypeError: if a space has no arrays of fixed shape (``Text``, ``Graph``, ``Sequence``, ``OneOf``, own ones).
        RuntimeError: if an environment cannot be created in its worker or has other spaces than the first.
    """

    def __init__(
        self,
        env_fns: str | Factory | Sequence[Factory],
        num_envs: int | None = None,
        num_workers: int | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        context: str | None = None,
        copy: bool = True,
        daemon: bool = True,
    ) -> None:
        factories = _factories(env_fns, num_envs, env_kwargs)
        self.num_envs, self.copy = len(factories), copy
        self._shares = _shares(self.num_envs, num_workers)
        self._columns: list[list[Column]] = [[] for _ in self._shares]  # of the info table, by worker
        self._is_ready = False
        self._learn_spaces(factories[0])
        ctx: Any = multiprocessing.get_context(context)
        space = shared_space(self.single_observation_space, self.single_action_space)
        self._memory: Any = create_shared_memory(space, n=self.num_envs, ctx=ctx)
        self._arrays = shared_arrays(space, self._memory, self.num_envs)
        wrapped = [CloudpickleWrapper(factory) for factory in factories]
        jobs = [Job(rows, wrapped[rows.start : rows.stop], space, self._memory, self.num_envs) for rows in self._shares]
        self._pool = WorkerPool(jobs, ctx, daemon)
        try:
            self._command("create", [() for _ in self._shares])
        except BaseException:
            self.close(terminate=True)
            raise

    @property
    def processes(self) -> tuple[BaseProcess, ...]:
        """The worker processes; the first has the first environments."""
        return tuple(worker.process for worker in self._pool.workers)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Seed of every environment."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """A copy of every environment's generator."""
        return self.get_attr("np_random")

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: environment i gets ``seed + i``, or ``seed[i]`` of a sequence.
            options: passed to the environments, except ``reset_mask`` (``[num_envs]`` bool), which says which of them
                to reset; the others keep their observation.

        Raises:
            ValueError: if the number of seeds or the mask does not fit.
            RuntimeError: if an environment raises; the message has its traceback. All must be reset before the next
                step.
        """
        seeds = self._seeds(seed)
        mask = reset_mask(options or {}, self.num_envs, self._is_ready)
        options = options and {key: value for key, value in options.items() if key != RESET_MASK_OPTION}
        self._is_ready = False
        by_worker = zip(self._split(seeds), self._split(mask), strict=True)
        infos: dict[str, Any] = {}
        for reports in self._command("reset", [(*parts, options) for parts in by_worker]):
            infos = self._with_reports(infos, reports)
        self._is_ready = True
        return self._observations(), infos

    def step(self, actions: ArrayLike | Mapping[str, Any] | tuple[Any, ...]) -> VectorStep:
        """Step every environment with its action; see ``gymnasium.vector.VectorEnv.step``.

        Args:
            actions: of ``action_space``; they arrive in that space's number type.

        Returns:
            Observations, rewards ``[num_envs]`` float64, terminations and truncations ``[num_envs]`` bool, infos.

        Raises:
            ValueError: if the actions' shape or type does not fit; nothing was stepped.
            gymnasium.error.ResetNeeded: before the first ``reset()``, and after an error in an environment.
            RuntimeError: if an environment raises (the message has its traceback) or a worker dies.
        """
        self._pool.assert_running()
        if not self._is_ready:
            raise ResetNeeded("call reset() of every environment before step()")
        fill(self._arrays["action"], actions, ...)
        self._is_ready = False
        replies = self._exchange([STEP] * len(self._shares))
        self._is_ready = True
        infos = self._infos(replies)
        arrays = self._arrays
        ends = arrays["terminated"].copy(), arrays["truncated"].copy()
        return self._observations(), arrays["reward"].copy(), *ends, infos

    def render(self) -> tuple[Any, ...] | None:
        """One picture for each environment; ``None`` without a render mode."""
        return None if self.render_mode is None else self.call("render")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment, or get an attribute that is not callable.

        Raises:
            ValueError: for ``step``, ``reset`` and ``close``, which this class has itself.
            RuntimeError: if an environment raises; they all go on.
        """
        if name in ("step", "reset", "close"):
            raise ValueError(f"call {name}() of the vector environment itself, not call({name!r})")
        replies = self._command("call", [(name, args, kwargs)] * len(self._shares))
        return tuple(result for reply in replies for result in reply)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of every environment, looked for from its outermost wrapper inwards."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute: to one value in every environment, or to a list or tuple of one value for each.

        Raises:
            ValueError: if a list or tuple has another length.
        """
        if not isinstance(values, list | tuple):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(f"values must be one or {self.num_envs}, one for each environment, got {len(values)}")
        self._command("set_attr", [(name, part) for part in self._split(values)])

    def close_extras(self, terminate: bool = False) -> None:
        """End the processes and let go of the shared memory.

        Args:
            terminate: at once, without closing the environments.
        """
        self._pool.stop(terminate)
        self._arrays = self._memory = None

    def _learn_spaces(self, factory: Factory) -> None:
        env = factory()
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode, self.spec = env.render_mode, env.spec
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(env.observation_space, self.num_envs)
        self.action_space = batch_space(env.action_space, self.num_envs)
        env.close()

    def _split(self, values: Any) -> list[Any]:
        """Slices of a sequence with one value for each environment, one slice for each worker."""
        return [values[rows.start : rows.stop] for rows in self._shares]

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must be one or {self.num_envs}, one for each environment, got {len(seed)}")
        return [None if each is None else int(each) for each in seed]

    def _observations(self) -> Any:
        return copied(self._arrays["observation"]) if self.copy else self._arrays["observation"]

    def _infos(self, replies: Sequence[StepReport | None]) -> dict[str, Any]:
        for worker, reply in enumerate(replies):
            if reply is not None:
                self._columns[worker] = reply[0]
        infos = self._table_infos()
        for reply in replies:
            if reply is not None:
                infos = self._with_reports(infos, reply[1])
        return infos

    def _table_infos(self) -> dict[str, Any]:
        """Infos that came through shared memory, with their masks."""
        values, present = self._arrays["info"], self._arrays["present"]
        infos: dict[str, NDArray[Any]] = {}
        masks: dict[str, NDArray[np.bool_]] = {}
        for share, columns in zip(self._shares, self._columns, strict=True):
            rows = slice(share.start, share.stop)
            for column, (key, dtype) in enumerate(columns):
                if key not in infos:
                    infos[key], masks[key] = np.zeros(self.num_envs, dtype), np.zeros(self.num_envs, bool)
                infos[key][rows], masks[key][rows] = values[rows, column], present[rows, column]
        reported = [key for key in infos if masks[key].any()]
        return {key: infos[key] for key in reported} | {f"_{key}": masks[key] for key in reported}

    def _with_reports(self, infos: dict[str, Any], reports: Sequence[EnvReport]) -> dict[str, Any]:
        for report in reports:
            if report.final is not None:
                observation, info = report.final
                infos = self._add_info(infos, {"final_obs": observation, "final_info": info}, report.index)
            infos = self._add_info(infos, report.info, report.index)
        return infos

    def _command(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send each worker a command with its arguments, and return what they answer."""
        return self._exchange([bytes(ForkingPickler.dumps((command, values))) for values in arguments])

    def _exchange(self, messages: Sequence[bytes]) -> list[Any]:
        try:
            return self._pool.exchange(messages)
        finally:
            if not self._pool.is_running:
                self.close()


def _factories(
    env_fns: str | Factory | Sequence[Factory], num_envs: int | None, env_kwargs: Mapping[str, Any] | None
) -> list[Factory]:
    if env_kwargs and not isinstance(env_fns, str):
        raise ValueError(f"env_kwargs go with an environment's ID, got {dict(env_kwargs)} beside functions")
    if not isinstance(env_fns, str) and not callable(env_fns):
        factories = list(env_fns)
        if not factories or num_envs not in (None, len(factories)):
            raise ValueError(f"num_envs must be the number of functions, >= 1, got {num_envs} and {len(factories)}")
        return factories
    num_envs = 1 if num_envs is None else num_envs
    if num_envs < 1:
        raise ValueError(f"num_envs must be >= 1, got {num_envs}")
    factory = partial(gym.make, env_fns, **(env_kwargs or {})) if isinstance(env_fns, str) else env_fns
    return [factory] * num_envs


def _shares(num_envs: int, num_workers: int | None) -> list[range]:
    """Consecutive environments of each worker, as equal in number as can be."""
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = min(num_envs, cores)
    if not 1 <= num_workers <= num_envs:
        raise ValueError(f"num_workers must be in [1, num_envs = {num_envs}], got {num_workers}")
    bounds = [worker * num_envs // num_workers for worker in range(num_workers + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]
