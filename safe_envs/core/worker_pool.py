"""The parent's side of worker processes: start them, exchange messages with them, end them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector.utils import clear_mpi_env_vars

from safe_envs.core.worker_process import STOP, THREAD_VARIABLES, Job, run_worker, thread_variables

CLOSE_SECONDS = 5.0
"""How long a worker may take to close its environments before it is killed."""


@dataclass(frozen=True)
class WorkerHandle:
    """A worker process, the indices of its environments, and the parent's end of its pipe."""

    rows: range
    process: BaseProcess
    pipe: Connection


class WorkerPool:
    """Worker processes that answer messages.

    They end when this object is garbage, when its process ends in whatever way, and when an exchange is broken off.

    Args:
        jobs: one for each worker.
        ctx: context of ``multiprocessing``.
        daemon: whether the processes are daemonic, which means that they may have no children.
    """

    def __init__(self, jobs: Sequence[Job], ctx: multiprocessing.context.BaseContext, daemon: bool = True) -> None:
        self.workers: list[WorkerHandle] = []
        self._finalizer = weakref.finalize(self, _stop, self.workers, os.getpid())
        is_fork = ctx.get_start_method() == "fork"
        with clear_mpi_env_vars(), _one_thread_for_children(thread_variables() if is_fork else THREAD_VARIABLES):
            for job in jobs:
                self._start(job, ctx, daemon, is_fork)

    @property
    def is_running(self) -> bool:
        """Whether ``stop`` was not called and no exchange was broken off."""
        return self._finalizer.alive

    def assert_running(self) -> None:
        """Raise ``gymnasium.error.ClosedEnvironmentError`` unless the pool is running."""
        if not self.is_running:
            raise ClosedEnvironmentError("the worker processes have ended: create a new vector environment")

    def exchange(self, messages: Sequence[bytes]) -> list[Any]:
        """Send each worker its message and wait for all answers.

        Raises:
            gymnasium.error.ClosedEnvironmentError: if the pool is not running.
            RuntimeError: if a worker answers with an error; they all go on. If a worker dies; then all end.
        """
        self.assert_running()
        try:
            for worker, message in zip(self.workers, messages, strict=True):
                with _raising_if_dead(worker):
                    worker.pipe.send_bytes(message)
            replies = []
            for worker in self.workers:
                with _raising_if_dead(worker):
                    replies.append(worker.pipe.recv_bytes())
        except BaseException:  # Ctrl-C too: an answer that nobody took would be taken for that to the next message
            self.stop(terminate=True)
            raise
        answers: list[tuple[bool, Any]] = [pickle.loads(reply) if reply else (True, None) for reply in replies]
        errors = [answer for is_fine, answer in answers if not is_fine]
        if errors:
            others = f"\n(the first of {len(errors)} workers with an error)" if errors[1:] else ""
            raise RuntimeError(errors[0] + others)
        return [answer for _, answer in answers]

    def stop(self, terminate: bool = False) -> None:
        """End the processes; once is enough.

        Args:
            terminate: at once, without closing the environments.
        """
        if self._finalizer.detach() is not None:
            _stop(self.workers, os.getpid(), terminate)

    def _start(self, job: Job, ctx: Any, daemon: bool, is_fork: bool) -> None:
        pipe, worker_pipe = ctx.Pipe()
        inherited = [pipe, *(worker.pipe for worker in self.workers)] if is_fork else []
        name = f"WorkerVectorEnv-{job.rows[0]}-{job.rows[-1]}"
        process = ctx.Process(target=run_worker, args=(job, worker_pipe, inherited), name=name, daemon=daemon)
        process.start()
        self.workers.append(WorkerHandle(job.rows, process, pipe))
        worker_pipe.close()  # else the end of the worker would not be the end of the pipe


@contextmanager
def _one_thread_for_children(variables: Sequence[str]) -> Iterator[None]:
    """Processes started inside inherit variables that say one thread."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(dict.fromkeys(variables, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _raising_if_dead(worker: WorkerHandle) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError):
        worker.process.join(CLOSE_SECONDS)
        raise RuntimeError(
            f"the worker of environments {worker.rows[0]} to {worker.rows[-1]} died with exit code "
            f"{worker.process.exitcode} (negative: the signal that killed it; -9 is often a lack of memory); "
            "all workers have been ended, create a new vector environment"
        ) from None


def _stop(workers: Sequence[WorkerHandle], owner: int, terminate: bool = False) -> None:
    if os.getpid() != owner:
        return  # a fork of the process that started the workers
    for worker in workers:
        with suppress(OSError):
            if terminate:
                worker.process.terminate()
            else:
                worker.pipe.send_bytes(STOP)
        worker.pipe.close()
    for worker in workers:
        worker.process.join(CLOSE_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
