"""What all algorithms share: the costs of episodes are counted, parts are saved and loaded, runs are continued."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from safe_wrappers.files import atomic_path
from safe_wrappers.info import check_missing_cost
from safe_wrappers.monitor import EpisodeCosts
from sb3_ext.common import checkpoint
from sb3_ext.common.buffers import forget_last_step
from sb3_ext.common.evaluation import were_moved

MissingCost = Literal["raise", "zero"]
OF_LOAD = ("device", "custom_objects", "print_system_info", "force_reset")
"""Arguments of SB3's ``load`` itself."""


class SafeAlgorithm(BaseAlgorithm):
    """Mixin before an SB3 algorithm.

    A subclass lists its stateful ``parts`` (attributes that are modules, or a ``ModuleDict`` of modules, perhaps with
    an ``optimizer``) and builds them in ``_setup_safety``. Saving, loading and checkpoints follow from that, and from
    the ``buffers`` and ``environments`` that it adds.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    buffers: ClassVar[tuple[str, ...]] = ()
    """Attributes that hold data: in checkpoints, not in saved models."""
    environments: ClassVar[tuple[str, ...]] = ("env",)
    """Attributes that are environments, that of the training first: the same."""
    transient: ClassVar[tuple[str, ...]] = ("_costs",)
    """Attributes that are made anew."""
    learned_with: ClassVar[tuple[str, ...]] = ()
    """Arguments that ``load`` cannot change, since critics have learned what they mean."""
    given_again: ClassVar[tuple[str, ...]] = ()
    """Arguments that ``load`` takes though a file may not hold them."""

    missing_cost: MissingCost
    normalized_observations: bool = False
    """Of a saved model: whether it learns from the observations of ``VecNormalize``."""

    def _start_counting(self, missing_cost: MissingCost) -> None:
        """To be called first in the constructor."""
        check_missing_cost(missing_cost)
        self.missing_cost = missing_cost
        self.algorithm = type(self).__name__
        self._reset_counts(window=100)

    def _reset_counts(self, window: int) -> None:
        """Count episodes from 0, with statistics over the last ``window`` of them."""
        self.n_episodes = self.n_violating_episodes = 0
        self.ep_cost_buffer: deque[float] = deque(maxlen=window)

    def _build_parts(self) -> None:
        """To be called at the end of ``_setup_model``."""
        self._costs = self._make_costs()
        # With inert parts training equals SB3's bit for bit.
        with self._random_streams_kept():
            self._setup_safety()

    def _random_streams_kept(self, kept: bool = True) -> AbstractContextManager[None]:
        """What is drawn within leaves torch's streams as they are; devices that the model is not on stay untouched."""
        return th.random.fork_rng(devices=[] if self.device.type == "cpu" else [self.device], enabled=kept)

    def _make_costs(self) -> EpisodeCosts:
        """What adds up the costs of each episode."""
        return EpisodeCosts(self.n_envs, missing_cost=self.missing_cost)

    def _setup_safety(self) -> None:
        """Build the parts, from attributes only (it is called again by ``load``)."""

    # ------------------------------------------------------------------ costs of episodes

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> Any:
        if were_moved(self.env):
            forget_last_step(self)
        if reset_num_timesteps or self._last_obs is None:  # SB3 starts new episodes then
            self._costs.reset()
        if reset_num_timesteps:  # as SB3 does it with ep_info_buffer
            self._reset_counts(self._stats_window_size)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_] | None = None) -> None:
        super()._update_info_buffer(infos, dones)
        self._count_costs(infos, np.zeros(len(infos), dtype=bool) if dones is None else dones)

    def _count_costs(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_]) -> None:
        for episode in self._costs.add(infos, dones):
            self.n_episodes += 1
            self.n_violating_episodes += int(episode["violations"] > 0)
            self.ep_cost_buffer.append(episode["cost"])

    def _record_costs(self) -> None:
        """Add the costs of episodes to the logs that are about to be written."""
        if self.ep_cost_buffer:
            self.logger.record("rollout/ep_cost_mean", float(np.mean(self.ep_cost_buffer)))
        self.logger.record("safety/violating_episodes", self.n_violating_episodes)

    # ------------------------------------------------------------------ saving

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The parts that there are, by the names under which SB3 saves them."""
        for part in self.parts:
            module = getattr(self, part)
            if isinstance(module, nn.ModuleDict):
                yield from ((f"{part}.{key}", member) for key, member in module.items())
            elif module is not None:
                yield part, module

    def _excluded_save_params(self) -> list[str]:
        own = (*self.parts, *self.buffers, *self.environments, *self.transient)
        return [*super()._excluded_save_params(), *own]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        for name, module in self._modules():
            state_dicts = [*state_dicts, name]
            if hasattr(module, "optimizer"):
                state_dicts = [*state_dicts, f"{name}.optimizer"]
        return state_dicts, tensors

    def _note_normalization(self) -> None:
        if self.env is not None:  # otherwise what its own file said stays
            self.normalized_observations = self._vec_normalize_env is not None and self._vec_normalize_env.norm_obs

    def save(
        self,
        path: Any,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """SB3's ``save``, but a file that is there already stays as it is until the new one is complete."""
        self._note_normalization()
        if not isinstance(path, str | Path):
            super().save(path, exclude, include)
            return
        path = Path(path)
        with atomic_path(path if path.suffix else path.with_suffix(".zip")) as temporary:
            super().save(temporary, exclude, include)

    @classmethod
    def load(cls, path: Any, env: Any = None, *args: Any, **kwargs: Any) -> Self:
        """SB3's ``load``; ``SafeSAC`` and ``SafeTD3`` also read SB3's own SAC and TD3.

        Raises:
            ValueError: if the file is truncated, no SB3 model, or a model of another class; if a keyword argument names
                one of the model's parts, which come from the file, something that its critics have learned with, or
                an argument of the constructor that is used there only.
        """
        if parts := sorted(set(kwargs) & set(cls.parts)):
            raise ValueError(f"load cannot exchange {parts}, which the file holds: make a new {cls.__name__}")
        with checkpoint.readable(path, cls.__name__):
            saved = checkpoint.check_holds(path, cls)
        for name in cls.learned_with:
            if name in kwargs and kwargs[name] != saved.get(name, kwargs[name]):
                raise ValueError(f"the critics of {path} have learned with {name}={saved[name]}, got {kwargs[name]}")
        known = {*saved, *OF_LOAD, *cls.given_again}
        if "algorithm" in saved and (unused := sorted(set(kwargs) - known)):
            raise ValueError(f"load cannot change {unused}: only arguments that the model keeps as attributes")
        with checkpoint.readable(path, cls.__name__):
            return super().load(path, env, *args, **kwargs)

    def save_checkpoint(self, folder: str | Path) -> None:
        """Write everything that a bit-for-bit continuation needs; an older checkpoint stays valid until then.

        The folder holds the model, the buffers, the environments (where they can be copied; otherwise this run and
        the continued one both reset them here) and all random states. What an unfinished rollout of an on-policy
        model has gathered is not kept: save between calls of ``learn``, or in a callback's ``_on_rollout_start``.
        """
        checkpoint.save(self, folder)

    @classmethod
    def load_checkpoint(
        cls, folder: str | Path, env: Any = None, device: th.device | str = "auto", **kwargs: Any
    ) -> Self:
        """Continue from ``save_checkpoint``: call ``learn(..., reset_num_timesteps=False)`` on the result.

        Args:
            folder: where the checkpoint was written.
            env: needed only where the environments could not be copied into the checkpoint.
            device: where to put the model.
            **kwargs: further arguments of ``load``.

        Raises:
            ValueError: if there is no complete checkpoint, or ``env`` is needed and missing.
        """
        return checkpoint.load(cls, folder, env, device, **kwargs)
