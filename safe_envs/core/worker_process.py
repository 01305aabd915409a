"""The worker side of ``WorkerVectorEnv``: some of its environments in one process, stepped at one wake-up."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.vector.utils import CloudpickleWrapper, batch_space, iterate

from safe_envs.core.worker_memory import Column, InfoTable, copied, fill, shared_arrays
from safe_wrappers.info import COST, COST_TERM_PREFIX, SUCCESS, VIOLATION

Env = gym.Env[Any, Any]
STEP = b"step"
"""Message to step; others are a pickled ``(command, arguments)``."""
STOP = b""
"""Message at which a worker closes its environments and ends."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True)
class Job:
    """What a worker process is given.

    Attributes:
        rows: indices of its environments, consecutive.
        factories: one for each of them.
        space: the ``shared_space`` of what every one of them must have.
        memory: the shared memory of that space for ``num_envs``.
        num_envs: number of environments of all workers.
    """

    rows: range
    factories: Sequence[CloudpickleWrapper[Env]]
    space: spaces.Dict
    memory: Any
    num_envs: int


@dataclass(frozen=True)
class EnvReport:
    """What a step of one environment left that does not go through shared memory.

    Attributes:
        index: of the environment.
        info: entries for the vector's infos.
        final: last observation and info of the episode that ended, or ``None``.
    """

    index: int
    info: dict[str, Any]
    final: tuple[Any, dict[str, Any]] | None


StepReport = tuple[list[Column], list[EnvReport]]
"""The info columns in use, and what the environments have to report."""


def is_step_key(key: str) -> bool:
    """Whether an info entry belongs to the step even where the step's end is another episode's start."""
    return key in (COST, VIOLATION, SUCCESS) or key.startswith(COST_TERM_PREFIX)


class Worker:
    """The environments of one process, and its answers to the parent's messages.

    Args:
        job: the environments and the memory that they share with the parent.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._envs: list[Env] = []
        self._arrays = shared_arrays(job.space, job.memory, job.num_envs)
        rows = self._rows = slice(job.rows.start, job.rows.stop)
        self._table = InfoTable(self._arrays["info"][rows], self._arrays["present"][rows])
        self._batch_action_space = batch_space(job.space["action"], len(job.rows))
        self._announced = 0
        self._steps = [0] * len(job.rows)
        self._active: tuple[int, str] | None = None  # environment that is at work, and at what, for error messages
        self._commands: dict[str, Callable[..., Any]] = {
            "create": self._create,
            "reset": self._reset,
            "call": self._call,
            "set_attr": self._set_attr,
        }

    def answer(self, message: bytes) -> bytes:
        """Do what the message says.

        Returns:
            nothing, where there is nothing to say; else a pickled ``(True, result)`` or ``(False, error text)``.
        """
        self._active = None
        try:
            if message == STEP:
                result = self._step()
            else:
                command, arguments = pickle.loads(message)
                result = self._commands[command](*arguments)
            self._active = None
            return b"" if result is None else bytes(ForkingPickler.dumps((True, result)))
        except Exception as error:
            return pickle.dumps((False, self._description(error)))

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _create(self) -> None:
        for index, factory in zip(self._job.rows, self._job.factories, strict=True):
            self._active = (index, "its factory")
            env = factory()
            self._envs.append(env)
            for name, space in (("observation", env.observation_space), ("action", env.action_space)):
                if space != (expected := self._job.space[name]):
                    raise ValueError(f"its {name} space must be that of environment 0, {expected}, got {space}")

    def _reset(
        self, seeds: Sequence[int | None], mask: Iterable[bool], options: dict[str, Any] | None
    ) -> list[EnvReport]:
        """Start episodes of the environments that the mask names; ``seeds`` and ``mask`` are of this worker."""
        self._announced = 0  # the parent has not heard of columns that came up in a step that failed somewhere
        reports = []
        for row, (env, seed, is_meant) in enumerate(zip(self._envs, seeds, mask, strict=True)):
            if is_meant:
                index = self._job.rows[row]
                self._active = (index, "reset()")
                observation, info = env.reset(seed=seed, options=options)
                self._steps[row] = 0
                fill(self._arrays["observation"], observation, (index, ...))
                reports.append(EnvReport(index, info, None))
        return reports

    def _step(self) -> StepReport | None:
        self._table.clear()
        reports = []
        # A copy, because environments may keep the action that they were given.
        actions = iterate(self._batch_action_space, copied(self._arrays["action"], self._rows))
        for row, action in enumerate(actions):
            if (report := self._step_one(row, action)) is not None:
                reports.append(report)
        columns = self._table.columns
        if not reports and len(columns) == self._announced:
            return None
        self._announced = len(columns)
        return columns, reports

    def _step_one(self, row: int, action: Any) -> EnvReport | None:
        env, index, arrays = self._envs[row], self._job.rows[row], self._arrays
        self._steps[row] += 1
        self._active = (index, "step")
        observation, reward, terminated, truncated, info = env.step(action)
        arrays["reward"][index], arrays["terminated"][index] = reward, terminated
        arrays["truncated"][index] = truncated
        final = None
        if terminated or truncated:
            # Before the reset, which may write into what the environment has handed out.
            final = deepcopy((observation, info))
            self._active = (index, "the reset() after step")
            observation, start_info = env.reset()
            info = {**start_info, **{key: value for key, value in final[1].items() if is_step_key(key)}}
        fill(arrays["observation"], observation, (index, ...))
        rest = self._table.store(row, info)
        if final is not None:
            self._steps[row] = 0
        return EnvReport(index, rest, final) if rest or final else None

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        results = []
        for index, env in zip(self._job.rows, self._envs, strict=True):
            self._active = (index, f"the call of {name!r}")
            attribute = env.get_wrapper_attr(name)
            results.append(attribute(*args, **kwargs) if callable(attribute) else attribute)
        return results

    def _set_attr(self, name: str, values: Sequence[Any]) -> None:
        for index, env, value in zip(self._job.rows, self._envs, values, strict=True):
            self._active = (index, f"setting {name!r}")
            env.set_wrapper_attr(name, value)

    def _description(self, error: Exception) -> str:
        rows, place = self._job.rows, ""
        who = f"the worker of environments {rows[0]} to {rows[-1]}"
        if self._active is not None:
            index, what = self._active
            who, place = f"environment {index}", f" in {what}"
            if what.endswith("step"):
                place += f" {self._steps[index - rows[0]]} of its episode"
        return f"{who} raised {type(error).__name__}{place}: {error}\n\n{traceback.format_exc()}"


def run_worker(job: Job, pipe: Connection, inherited: Sequence[Connection]) -> None:
    """Answer messages until ``STOP`` comes or the parent is gone; target of the worker process.

    Args:
        job: the environments.
        pipe: the worker's end.
        inherited: the parent's ends of pipes that a fork has copied. They are closed, because a worker learns of its
            parent's death by the last copy of them going.
    """
    for end in inherited:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _use_one_thread()
    worker = Worker(job)
    try:
        while (message := pipe.recv_bytes()) != STOP:
            pipe.send_bytes(worker.answer(message))
    except (EOFError, OSError):
        pass  # the parent is gone
    finally:
        worker.close()


def thread_variables() -> list[str]:
    """``THREAD_VARIABLES`` that this process may still change.

    Numba, once it is loaded and has started threads, takes another number of them for an error.
    """
    return [name for name in THREAD_VARIABLES if not (name.startswith("NUMBA") and "numba" in sys.modules)]


def _use_one_thread() -> None:
    os.environ.update(dict.fromkeys(thread_variables(), "1"))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
