"""``SequenceReplayBuffer``: each environment's steps as one stream, sampled in windows with stored hidden states."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from safe_wrappers.info import read_cost
from sb3_ext.recurrent.observations import ObservationLayout, TensorObs, tensor

CGROUP = Path("/sys/fs/cgroup")
CHUNK_BYTES = 16 * 2**20  # memory is taken in pieces of this size
MEMORY_SHARE = 0.5  # of the memory that is free when the buffer is made
HIDDEN_INTERVAL = 10  # windows begin at every tenth entry: hidden states then take 4 % more memory, not 40 %


class SequenceBatch(NamedTuple):
    """``B`` windows of ``L`` entries, time-major; what leads from entry ``t`` to ``t + 1`` stands at ``t``.

    Attributes:
        observations: ``[L * B, ...]``, as the trunk reads them.
        actions: scaled to [-1, 1], ``[L, B, A]``.
        rewards: ``[L, B]``.
        costs: ``[L, B]``.
        dones: 1 where the step ended the episode for good (not by time limit), ``[L, B]``.
        episode_starts: where the hidden state is 0 before the entry, bool ``[L, B]``.
        mask: 1 where entries ``t`` and ``t + 1`` are a transition, ``[L - 1, B]``.
        hidden: the actor's hidden state before the first entry, ``[B, H]``.
    """

    observations: TensorObs
    actions: th.Tensor
    rewards: th.Tensor
    costs: th.Tensor
    dones: th.Tensor
    episode_starts: th.Tensor
    mask: th.Tensor
    hidden: th.Tensor


class Streams:
    """A ring of ``capacity`` rows for each environment, whose memory is taken when it is first written to.

    Positions count all rows ever written; a row stays until ``capacity`` more have been written.
    """

    def __init__(self, n_envs: int, capacity: int, dtype: np.dtype[Any]) -> None:
        self.n_envs, self.capacity, self.dtype = n_envs, capacity, dtype
        self.chunk_rows = min(capacity, max(1, CHUNK_BYTES // (n_envs * dtype.itemsize)))
        self.chunks: list[NDArray[Any]] = []

    def write(self, env: int, position: int, rows: NDArray[Any]) -> None:
        """Store rows ``[n]`` of one environment, from a position on."""
        while len(rows):
            chunk, offset, n = self._piece(position, len(rows))
            while chunk >= len(self.chunks):
                self.chunks.append(np.zeros((self.n_envs, self.chunk_rows), self.dtype))
            self.chunks[chunk][env, offset : offset + n] = rows[:n]
            position, rows = position + n, rows[n:]

    def read(self, env: int, position: int, out: NDArray[Any]) -> None:
        """Fill ``out`` ``[n]`` with the rows of one environment from a position on."""
        while len(out):
            chunk, offset, n = self._piece(position, len(out))
            out[:n] = self.chunks[chunk][env, offset : offset + n]
            position, out = position + n, out[n:]

    def _piece(self, position: int, n: int) -> tuple[int, int, int]:
        """Chunk, offset and number of the rows that lie together there."""
        place = position % self.capacity
        chunk, offset = divmod(place, self.chunk_rows)
        return chunk, offset, min(n, self.chunk_rows - offset, self.capacity - place)


class SequenceReplayBuffer(ReplayBuffer):
    """Replay of windows of ``burn_in + horizon + 1`` entries.

    An entry is an observation with the action, reward and cost that followed it. The last observation of an episode is
    an entry of its own, which nothing follows: a time limit is bootstrapped from what was really seen. Where an entry
    starts an episode (or a stream that was interrupted) there is no transition from the one before it. The hidden state
    is kept with every tenth entry, where windows may begin.

    Args:
        buffer_size: entries of all environments; fewer, with one warning, if half of the free memory does not hold
            them. Memory is taken as it is needed.
        observation_space: see ``ObservationLayout``. Images are kept as bytes, floats in [0, 1] in 256 levels.
        action_space: a Box.
        device: where samples go.
        n_envs: number of environments.
        optimize_memory_usage: not supported: every observation is stored once as it is.
        gru_size: size ``H`` of the hidden state.
        horizon: transitions of a window that are learned from.
        burn_in: transitions before them, which only warm up the hidden state.
        use_feedback: whether the previous reward and cost are stored.
        missing_cost: what a step without ``info["cost"]`` means: ``"raise"`` or ``"zero"``.

    Raises:
        ValueError: if a size is out of range, or the buffer holds no window.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        gru_size: int,
        horizon: int = 30,
        burn_in: int = 0,
        use_feedback: bool = True,
        missing_cost: str = "raise",
    ) -> None:
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage=True is not supported by the sequence buffer; leave it False")
        if horizon < 1 or burn_in < 0:
            raise ValueError(f"horizon must be >= 1 and burn_in >= 0, got {horizon} and {burn_in}")
        if gru_size < 1:
            raise ValueError(f"gru_size must be >= 1, got {gru_size}")
        self.layout = ObservationLayout.of(observation_space, use_feedback)
        self.length, self.missing_cost = burn_in + horizon + 1, missing_cost
        self.dtype = _row_type(self.layout, self.action_dim)
        entry_bytes = self.dtype.itemsize + 4 * gru_size // HIDDEN_INTERVAL
        self.buffer_size = _affordable(buffer_size, entry_bytes)
        entries = self.buffer_size // n_envs
        # A multiple of the interval: then the kept hidden states turn with the rows.
        entries -= entries % HIDDEN_INTERVAL
        if entries < self.length + HIDDEN_INTERVAL:
            raise ValueError(
                f"buffer_size={buffer_size} leaves {entries} entries for each of {n_envs} environments, but a window "
                f"has {self.length}: use at least {n_envs * (self.length + 2 * HIDDEN_INTERVAL)}"
            )
        self.capacity, self.handle_timeout_termination = entries, True
        self.gru_size = gru_size
        self.reset()

    def reset(self) -> None:
        """Empty it, and give its memory back."""
        self._rows = Streams(self.n_envs, self.capacity, self.dtype)
        hidden = np.dtype((np.float32, (self.gru_size,)))
        self._hidden = Streams(self.n_envs, self.capacity // HIDDEN_INTERVAL, hidden)
        self._written = np.zeros(self.n_envs, dtype=np.int64)
        self._staged: tuple[NDArray[np.bool_], NDArray[np.float32]] | None = None

    # ------------------------------------------------------------------ writing

    def stage(self, episode_starts: NDArray[np.bool_], hidden: NDArray[np.float32]) -> None:
        """What belongs to the next ``add``: starts ``[n_envs]``, and hidden states before it ``[n_envs, H]``."""
        self._staged = (np.asarray(episode_starts, bool), hidden)

    def add(
        self, obs: Any, next_obs: Any, action: NDArray[Any], reward: NDArray[Any], done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        """Store one step of every environment; ``next_obs`` is used where it ends an episode.

        Raises:
            ValueError: without ``stage`` before it.
            MissingCostError: if a step has no cost and ``missing_cost="raise"``.
        """
        if self._staged is None:
            raise ValueError("call stage(episode_starts, hidden) before add(): windows need the hidden states")
        (starts, hidden), self._staged = self._staged, None
        rows = self._observed(obs)
        rows["action"], rows["reward"] = np.reshape(action, (self.n_envs, -1)), reward
        rows["cost"] = [read_cost(info, self.missing_cost) for info in infos]
        timeouts = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        rows["terminated"], rows["start"] = np.asarray(done, bool) & ~timeouts, starts
        last = self._observed(next_obs) if np.any(done) else rows
        for env in range(self.n_envs):
            self.append(env, rows[env : env + 1], hidden[env : env + 1])
            if done[env]:  # no window needs the state before its last observation, which no action follows
                self.append(env, last[env : env + 1], np.zeros_like(hidden[:1]))

    def _observed(self, obs: Any) -> NDArray[Any]:
        rows = np.zeros(self.n_envs, self.dtype)
        for name, values in self.layout.arrays(obs).items():
            rows["obs"][name] = values
        return rows

    def append(self, env: int, rows: NDArray[Any], hidden: NDArray[np.float32]) -> None:
        """Go on with one environment's stream.

        Args:
            env: which.
            rows: entries ``[n]`` of type ``dtype``.
            hidden: states before them, ``[n, H]``.
        """
        first = int(self._written[env])
        self._rows.write(env, first, rows)
        for i in range(-first % HIDDEN_INTERVAL, len(rows), HIDDEN_INTERVAL):
            self._hidden.write(env, (first + i) // HIDDEN_INTERVAL, hidden[i : i + 1])
        self._written[env] += len(rows)

    # ------------------------------------------------------------------ reading

    def size(self) -> int:
        """Entries that are held, of all environments."""
        return int(np.minimum(self._written, self.capacity).sum())

    def n_windows(self) -> int:
        """Number of different windows that ``sample`` may give."""
        return int(self._windows()[1].sum())

    def _windows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First window of each environment and how many follow on, counted in intervals."""
        oldest = np.maximum(self._written - self.capacity, 0)
        first = -(-oldest // HIDDEN_INTERVAL)
        last = (self._written - self.length) // HIDDEN_INTERVAL
        return first, np.maximum(last - first + 1, 0)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> SequenceBatch:  # type: ignore[override]
        """``batch_size`` windows, all equally likely; observations and rewards are normalised by ``env`` if given.

        Raises:
            ValueError: if there is no whole window yet.
        """
        first, counts = self._windows()
        bounds = np.cumsum(counts)
        if bounds[-1] == 0:
            raise ValueError(f"no environment has {self.length} entries yet: collect more steps before sampling")
        drawn = np.random.randint(0, bounds[-1], size=batch_size)
        envs = np.searchsorted(bounds, drawn, side="right")
        return self.gather(envs, HIDDEN_INTERVAL * (first[envs] + drawn - (bounds - counts)[envs]), env)

    def gather(self, envs: NDArray[Any], positions: NDArray[Any], env: VecNormalize | None = None) -> SequenceBatch:
        """The windows of the environments ``[B]`` that begin at the positions ``[B]``, multiples of the interval."""
        rows = np.empty((self.length, len(envs)), self.dtype)
        hidden = np.empty((len(envs), *self._hidden.dtype.shape), np.float32)
        for i, (stream, position) in enumerate(zip(envs.tolist(), positions.tolist(), strict=True)):
            self._rows.read(stream, position, rows[:, i])
            self._hidden.read(stream, position // HIDDEN_INTERVAL, hidden[i : i + 1])
        starts = tensor(rows["start"], self.device)
        return SequenceBatch(
            observations=self.layout.tensors(self._normalized(rows["obs"], env), self.device),
            actions=tensor(rows["action"], self.device),
            rewards=tensor(self._normalize_reward(rows["reward"], env).astype(np.float32), self.device),
            costs=tensor(rows["cost"], self.device),
            dones=tensor(rows["terminated"], self.device).float(),
            episode_starts=starts,
            mask=(~starts[1:]).float(),
            hidden=tensor(hidden, self.device),
        )

    def _normalized(self, rows: NDArray[Any], env: VecNormalize | None) -> dict[str, NDArray[Any]]:
        found = {name: rows[name] for name in self.layout.names}
        if env is None or not env.norm_obs:
            return found
        whole = not isinstance(self.observation_space, spaces.Dict)
        for name in self.layout.vectors if whole else set(env.norm_obs_keys or ()) & set(self.layout.vectors):
            statistics: Any = env.obs_rms if whole else env.obs_rms[name]
            values = env._normalize_obs(found[name].reshape(-1, *statistics.mean.shape), statistics)
            found[name] = values.astype(np.float32).reshape(found[name].shape)
        return found


def _row_type(layout: ObservationLayout, action_dim: int) -> np.dtype[Any]:
    """One entry of a stream."""
    vectors = [(name, np.float32, (size,)) for name, size in layout.vectors.items()]
    images = [(name, np.uint8, shape) for name, shape in layout.images.items()]
    fields: list[Any] = [
        ("obs", np.dtype([*vectors, *images])), ("action", np.float32, (action_dim,)), ("reward", np.float32),
        ("cost", np.float32), ("terminated", np.bool_), ("start", np.bool_),
    ]  # fmt: skip
    return np.dtype(fields, align=True)


def _affordable(buffer_size: int, entry_bytes: int) -> int:
    """``buffer_size``, or as many entries as a share of the free memory holds."""
    free = available_memory()
    if free is None or buffer_size * entry_bytes <= MEMORY_SHARE * free:
        return buffer_size
    entries = int(MEMORY_SHARE * free) // entry_bytes
    warnings.warn(
        f"buffer_size={buffer_size} needs {buffer_size * entry_bytes / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are "
        f"free: the replay buffer will hold {entries} entries",
        UserWarning,
        stacklevel=2,
    )
    return entries


def available_memory() -> int | None:
    """Bytes that the system could give now; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # a container may have less than its machine
        found.append(int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
    return min(found) if found else None
