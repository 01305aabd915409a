"""Run folders: what a run writes, how it is read back, and when it refuses."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safe_bench.integrity import find_fault
from safe_wrappers.files import atomic_path

STAGE_ENDS = "stages.json"
"""Timesteps at which stages ended. A run folder with this file holds results, of a run or of a part of it."""
SAFETY_DATA = ("safety_steps", "safety_violations")
"""Of a summary, where the model counts them: its episodes beside the training ones, which are no rows of a file."""
PACKAGES = ("sb3-safe", "gymnasium", "stable-baselines3", "torch", "numpy")


class RunError(RuntimeError):
    """A run folder that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class RowFile:
    """A CSV file of a run folder.

    Attributes:
        name: of the file.
        columns: type of each.
    """

    name: str
    columns: Mapping[str, Callable[[str], Any]]

    def write(self, folder: Path, rows: Iterable[dict[str, Any]]) -> None:
        """Write all rows, or nothing."""
        with atomic_path(folder / self.name) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.columns))
            writer.writeheader()
            writer.writerows(rows)

    def read(self, folder: Path) -> list[dict[str, Any]]:
        """The rows so far; none if there is no file.

        Raises:
            RunError: if the file is damaged.
        """
        file = folder / self.name
        if not file.is_file():
            return []
        try:
            with file.open(newline="") as handle:
                return [{key: kind(row[key]) for key, kind in self.columns.items()} for row in csv.DictReader(handle)]
        except (KeyError, ValueError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}): remove {folder} to run it again") from error


EPISODES = RowFile("episodes.csv", {
    "stage": str, "episode": int, "timesteps": int, "length": int, "return": float, "cost": float, "violation": int,
    "success": int, "interventions": int, "seconds": float,
})  # fmt: skip
"""One row per training episode."""
EVALUATIONS = RowFile("evaluations.csv", {
    "agent": str, "timesteps": int, "episodes": int, "return": float, "cost": float, "length": float,
    "violation_rate": float, "success_rate": float,
})  # fmt: skip
"""One row per evaluation while learning, of the agent or of its baseline."""
OFFLINE = "offline_data.json"
"""What was recorded before a run, and what was learned from it."""
ORIGIN = "origin.json"
"""What a run began with: steps before the first, and the runs that its controller and its first weights are of."""
CRITIC = "critic"
"""There: how well the safety critic knew the test environment before the first stage."""
DIAGNOSTICS = RowFile("diagnostics.csv", {"timesteps": int, "name": str, "value": float})
"""What the algorithm logged about its learning (losses, multiplier, values), at each of these evaluations after the
first: means since the last checkpoint."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run: ``out/<protocol>/<method>/seed-<n>``."""

    path: Path

    @classmethod
    def of(cls, out: str | Path, protocol: str, method: str, seed: int) -> RunFolder:
        """The folder of one method and seed."""
        return cls(Path(out) / protocol / method / f"seed-{seed}")

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.path / "summary.json").is_file()

    @property
    def checkpoint(self) -> Path:
        """Where the run continues from."""
        return self.path / "checkpoint"

    def check(self, config: dict[str, Any]) -> None:
        """Check that a run with this configuration can be made or continued here; nothing is left behind.

        Raises:
            RunError: if the folder holds a run with another configuration, or cannot be read or written.
        """
        file = self.path / "config.json"
        if file.is_file() and (self.finished or (self.path / STAGE_ENDS).is_file()):  # a configuration alone is no run
            found = read_json(file)
            if found != config:
                raise RunError(
                    f"{self.path} holds a run with other settings ({describe_difference(found, config)}): "
                    "choose another --out, or remove that folder"
                )
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            raise RunError(f"cannot write to {existing}, which {self.path} is to be in; choose another --out")

    @contextlib.contextmanager
    def claimed(self, config: dict[str, Any]) -> Iterator[None]:
        """Hold the folder for one process that runs this configuration.

        Raises:
            RunError: as ``check``, or if another process holds the folder.
        """
        self.check(config)
        try:
            write_json(self.path / "config.json", config)
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror or error}; choose another --out") from error
        with locked(self.path / ".lock", self.path):
            yield


@contextlib.contextmanager
def locked(file: Path, what: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock for this process while it works on ``what``; with ``wait``, once no other process holds it.

    Raises:
        RunError: if another process holds it and this one does not wait, or the file cannot be written.
    """
    try:
        lock = file.open("w")
    except OSError as error:
        raise RunError(f"cannot write to {file.parent}: {error.strerror or error}; choose another --out") from error
    with lock:
        try:
            # The system releases it, however the process ends.
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise RunError(f"another process is running {what}: wait for it, or choose another --out") from None
        yield


@dataclass(frozen=True)
class Run:
    """A finished run, read back.

    Attributes:
        config: its exact configuration.
        episodes: training episodes, one array per column of ``EPISODES``.
        evaluations: rows of ``EVALUATIONS``.
        diagnostics: rows of ``DIAGNOSTICS``.
        evaluation: ``{"deterministic": {...}, "stochastic": {...}}``.
        summary: wall time, versions, commit.
        figures: data of pictures, if kept.
        ends: timesteps at the end of each stage; empty where nothing is learned.
        offline: contents of ``OFFLINE``; empty without.
        path: its folder.
    """

    config: dict[str, Any]
    episodes: dict[str, NDArray[Any]]
    evaluations: list[dict[str, Any]]
    diagnostics: list[dict[str, Any]]
    evaluation: dict[str, Any]
    summary: dict[str, Any]
    figures: dict[str, Any] | None
    ends: list[int]
    offline: dict[str, Any]
    path: Path

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    def stage(self, name: str) -> dict[str, NDArray[Any]]:
        """The episodes of one stage."""
        rows = self.episodes["stage"] == name
        return {key: column[rows] for key, column in self.episodes.items()}

    def start_of(self, name: str) -> int:
        """Timesteps at the beginning of a stage."""
        stages = [stage["name"] for stage in self.config["budget"]["stages"]]
        return [0, *self.ends][stages.index(name)]

    @classmethod
    def read(cls, folder: RunFolder) -> Run:
        """Read a finished run.

        Raises:
            RunError: if it is incomplete, damaged, or the run of another protocol, method or seed.
        """
        if not folder.finished:
            raise RunError(f"{folder.path} is not finished: run the same command again to go on")
        rows = EPISODES.read(folder.path)
        figures, ends, offline = (folder.path / name for name in ("figures.json", STAGE_ENDS, OFFLINE))
        run = cls(
            read_json(folder.path / "config.json"),
            {key: np.array([row[key] for row in rows]) for key in EPISODES.columns},
            EVALUATIONS.read(folder.path),
            DIAGNOSTICS.read(folder.path),
            read_json(folder.path / "evaluation.json"),
            read_json(folder.path / "summary.json"),
            read_json(figures) if figures.is_file() else None,
            read_json(ends) if ends.is_file() else [],
            read_json(offline) if offline.is_file() else {},
            folder.path,
        )
        if fault := find_fault(run):
            raise RunError(f"{folder.path} {fault}")
        return run


def finished_summaries(out: str | Path, protocol: str) -> list[Path]:
    """The summaries that finished runs of a protocol have left under ``out``."""
    return sorted((Path(out) / protocol).glob("*/seed-*/summary.json"))


def find_runs(out: str | Path, protocol: str) -> dict[str, list[Run]]:
    """All finished runs of a protocol under ``out``, by method, seeds in order.

    Raises:
        RunError: if there is none, or one cannot be used.
    """
    runs: dict[str, list[Run]] = {}
    for summary in finished_summaries(out, protocol):
        runs.setdefault(summary.parent.parent.name, []).append(Run.read(RunFolder(summary.parent)))
    if not runs:
        raise RunError(
            f"{Path(out) / protocol} holds no finished run: safe-bench run {protocol} --out {out} makes some"
        )
    return {method: sorted(found, key=lambda run: run.seed) for method, found in runs.items()}


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): remove {path.parent} to run it again") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def describe_difference(found: Any, expected: Any, where: str = "") -> str:
    """The first place in which two configurations differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            if found.get(key) != expected.get(key):
                return describe_difference(found.get(key), expected.get(key), f"{where}.{key}" if where else key)
    return f"{where}: there {found!r}, asked for {expected!r}"


def provenance() -> dict[str, Any]:
    """Package versions, Python, and the commit of the working tree if there is one."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "python": platform.python_version(), "commit": _commit()}


def _commit() -> str | None:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
