"""Runs jobs side by side in processes of their own, with a progress display; Ctrl-C loses nothing that is finished."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from safe_bench.recordings import Report
from safe_bench.runs import RunError

REFRESH_SECONDS = 0.2
THREADS = "OMP_NUM_THREADS"


class Runnable(Protocol):
    """Something to be done in a process of its own, such as ``runner.Job``."""

    @property
    def label(self) -> str:
        """What the progress display calls it."""

    def execute(self, report: Report) -> None:
        """Do it, from where it was interrupted."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job: ``error`` is None if it finished; ``trace`` tells where one that nobody foresaw arose."""

    job: Runnable
    error: str | None
    trace: str = ""


def run_jobs(jobs: Sequence[Runnable], n_processes: int, console: Console) -> list[Outcome]:
    """Run all jobs, ``n_processes`` at a time.

    Raises:
        ValueError: if ``n_processes`` is below 1.
        KeyboardInterrupt: on Ctrl-C, after the processes were stopped; the same command goes on later.
    """
    if n_processes < 1:
        raise ValueError(f"--jobs must be >= 1, got {n_processes}")
    others = multiprocessing.active_children()
    try:
        return _run_all(jobs, n_processes, console)
    except KeyboardInterrupt:
        # Wherever it came, while processes were being started too: Python would wait for them before it ends.
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise


def _run_all(jobs: Sequence[Runnable], n_processes: int, console: Console) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    updates: Any = context.Queue()
    with _Display(console, len(jobs)) as display:
        executor = ProcessPoolExecutor(n_processes, context, initializer=_initialise, initargs=(updates,))
        with _one_thread_each():
            futures = {executor.submit(_run, job): job for job in jobs}
        _follow(futures, updates, display)
        executor.shutdown()
    return [Outcome(job, _error(future), _trace(future)) for future, job in futures.items()]


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """For processes that are started within: two side by side use two cores better than one with two threads.

    NumPy reads it when it is imported, which is before anything of ours runs there.
    """
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before


_updates: Any = None
"""In a process of the pool: where its reports go."""


def _initialise(updates: Any) -> None:
    global _updates
    _updates = updates
    updates.cancel_join_thread()  # a process that was killed while it reported must not keep the others from ending
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    warnings.filterwarnings("ignore", message=".*untrained safety critic.*")  # the ablation means it


def _end_with_parent() -> None:
    """However the parent ends: else a run would go on unseen, and hold its folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(job: Runnable) -> None:
    last = ("", 0.0)

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if what != last[0] or now - last[1] >= REFRESH_SECONDS or done == total:
            last = (what, now)
            _updates.put((job.label, what, done, total))

    job.execute(report)


def _follow(futures: dict[Future[None], Runnable], updates: Any, display: _Display) -> None:
    waiting = dict(futures)
    while waiting:
        with contextlib.suppress(queue.Empty):
            display.update(*updates.get(timeout=REFRESH_SECONDS))
            while True:
                display.update(*updates.get_nowait())
        for future in [future for future in waiting if future.done()]:
            display.finish(waiting.pop(future).label, _error(future))


def _error(future: Future[None]) -> str | None:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return "its process was killed; the same command goes on from its checkpoint"
    return None if error is None else f"{type(error).__name__}: {error}"


def _trace(future: Future[None]) -> str:
    error = future.exception()
    if error is None or isinstance(error, BrokenProcessPool | RunError):
        return ""
    return str(error.__cause__ or error)  # the cause is the other process's traceback


class _Display:
    """A bar for all jobs, and one for each that is running."""

    def __init__(self, console: Console, n_jobs: int) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self.total = self.progress.add_task("runs", total=n_jobs)
        self.bars: dict[str, Any] = {}

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, label: str, what: str, done: int, total: int) -> None:
        """Show how far a job is."""
        if label not in self.bars:
            self.bars[label] = self.progress.add_task(label)
        self.progress.update(self.bars[label], description=f"{label}: {what}", completed=done, total=total)

    def finish(self, label: str, error: str | None) -> None:
        """Take a job's bar away."""
        if label in self.bars:
            self.progress.remove_task(self.bars.pop(label))
        self.progress.advance(self.total)
        self.progress.console.print(f"{label}: {'finished' if error is None else '[red]failed[/red]: ' + error}")
