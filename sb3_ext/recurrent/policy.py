"""``RecurrentPolicy``: the whole network of ``RecurrentSACLag`` as an SB3 policy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from safe_wrappers.observations import map_entries
from sb3_ext.common.optim import FusedAdam
from sb3_ext.recurrent.networks import KERNELS, GaussianActor, Trunk, ValueHeads
from sb3_ext.recurrent.observations import ObservationLayout, TensorObs, tensor

State = tuple[NDArray[np.float32], ...]
GRU_SIZE = 256


class RecurrentPolicy(BasePolicy):
    """One trunk (CNN and GRU), a policy, two return heads and a cost head; target networks of trunk and heads.

    The default sizes are those of the safe-transfer paper's Table 2 (Doggo: a 50 x 50 depth image, 44 proprioceptive
    entries, 12 actions), each row within 3 %: CNN 143,616, embedding 131,328, GRU 430,080, policy 346,408, heads
    343,329 each, 2.08e6 in all. The table gives no shapes. The Nature CNN's own 32-64-64 channels have half of
    the table's count (71,840, embedding 65,792); its kernels with 64-64-128 channels have the table's in both rows.

    Args:
        observation_space: a Box or a Dict of Boxes, see ``ObservationLayout``.
        action_space: a bounded Box.
        lr_schedule: of the learning rate.
        use_feedback: whether the previous reward and cost are read.
        cnn_channels: of the three convolutions.
        cnn_embedding: size of the embedding of all images.
        gru_size: size ``H`` of the hidden state.
        hidden: hidden layers of the policy and of each head.
        optimizer_kwargs: further arguments of Adam.

    Raises:
        ValueError: for other spaces or sizes.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *,
        use_feedback: bool = True,
        cnn_channels: Sequence[int] = (64, 64, 128),
        cnn_embedding: int = 256,
        gru_size: int = GRU_SIZE,
        hidden: Sequence[int] = (512, 400),
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        self.layout = ObservationLayout.of(observation_space, use_feedback)
        _check_sizes(cnn_channels, [cnn_embedding, gru_size, *hidden], len(hidden))
        n_actions = int(np.prod(action_space.shape or ()))
        self.trunk = Trunk(self.layout, cnn_channels, cnn_embedding, gru_size)
        self.actor = GaussianActor(gru_size, hidden, n_actions)
        self.heads = ValueHeads(gru_size, hidden, n_actions)
        self.target_trunk, self.target_heads = copy.deepcopy(self.trunk), copy.deepcopy(self.heads)
        for parameter in self._slow():
            parameter.requires_grad_(False)
        self.optimizer = FusedAdam(self.learned(), lr=lr_schedule(1), fused=True, **(optimizer_kwargs or {}))

    @property
    def gru_size(self) -> int:
        """Size ``H`` of the hidden state."""
        return self.trunk.gru_size

    def learned(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [p for module in (self.trunk, self.actor, self.heads) for p in module.parameters()]

    def _slow(self) -> list[th.Tensor]:
        return [p for module in (self.target_trunk, self.target_heads) for p in module.parameters()]

    def move_target(self, tau: float) -> None:
        """Polyak averaging of trunk and heads."""
        online: list[th.Tensor] = [p for module in (self.trunk, self.heads) for p in module.parameters()]
        with th.no_grad():
            th._foreach_lerp_(self._slow(), online, tau)

    def parameter_table(self) -> dict[str, int]:
        """Numbers of parameters by the rows of the paper's Table 2; ``total`` leaves out the target networks."""
        embedding = self.trunk.embedding
        return {
            "cnn": _count(self.trunk.cnns),
            "embedding": 0 if embedding is None else _count(embedding),
            "gru": _count(self.trunk.gru),
            "policy": _count(self.actor),
            "each head": _count(self.heads.networks[0]),
            "total": sum(p.numel() for p in self.learned()),
        }

    # ------------------------------------------------------------------ acting

    def initial_state(self, n: int) -> NDArray[np.float32]:
        """Hidden states ``[n, H]`` at the start of episodes."""
        return np.zeros((n, self.gru_size), dtype=np.float32)

    @th.no_grad()
    def advance(
        self, arrays: dict[str, NDArray[Any]], hidden: NDArray[np.float32], starts: NDArray[np.bool_]
    ) -> th.Tensor:
        """Hidden states ``[B, H]`` after the observations.

        Args:
            arrays: observations ``[B, ...]`` as ``ObservationLayout.arrays`` gives them.
            hidden: states before them, ``[B, H]``.
            starts: where they are the first of an episode, ``[B]``.
        """
        obs = self.layout.tensors(arrays, self.device)
        state, flags = tensor(hidden, self.device), tensor(starts, self.device)
        return self.trunk(obs, state, flags.unsqueeze(0))[1]

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: State | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """Actions in environment units and the hidden states after them, as ``RecurrentPPO`` does it.

        Args:
            observation: one observation or a batch.
            state: what the last call returned; None: all zero.
            episode_start: ``[B]``, where the hidden state is to be zero; None: nowhere.
            deterministic: the mode, or samples.

        Raises:
            ValueError: if the states are not as many as the observations.
        """
        self.set_training_mode(False)
        tensors, vectorized = self.obs_to_tensor(observation)
        arrays = self.layout.arrays(map_entries(lambda entry: entry.numpy(force=True), tensors))
        n = len(next(iter(arrays.values())))
        hidden = self.initial_state(n) if state is None else state[0]
        if hidden.shape != (n, self.gru_size):
            raise ValueError(f"state must be of shape {(n, self.gru_size)} for {n} observations, got {hidden.shape}")
        starts = np.zeros(n, bool) if episode_start is None else np.asarray(episode_start, bool).reshape(n)
        latent = self.advance(arrays, hidden, starts)
        scaled = self._act(latent, deterministic).numpy(force=True).reshape(-1, *(self.action_space.shape or ()))
        actions = self.unscale_action(scaled)
        return actions if vectorized else actions[0], (latent.numpy(force=True),)

    @th.no_grad()
    def _act(self, latent: th.Tensor, deterministic: bool) -> th.Tensor:
        return self.actor.mode(latent) if deterministic else self.actor(latent)[0]

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        """Scaled actions ``[B, A]`` at the start of episodes (SB3 asks for it; ``predict`` has the states)."""
        found = observation if isinstance(observation, dict) else {self.layout.names[0]: observation}
        arrays = self.layout.arrays({k: v.numpy(force=True) for k, v in found.items()})
        n = len(next(iter(arrays.values())))
        return self._act(self.advance(arrays, self.initial_state(n), np.ones(n, bool)), deterministic)

    def forward(self, obs: TensorObs, deterministic: bool = False) -> th.Tensor:
        """See ``_predict``."""
        return self._predict(obs, deterministic)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _check_sizes(channels: Sequence[int], sizes: Sequence[int], n_hidden: int) -> None:
    if len(channels) != len(KERNELS) or n_hidden < 1:
        raise ValueError(
            f"cnn_channels must name {len(KERNELS)} layers and hidden at least one, got {channels} and {n_hidden}"
        )
    if min([*channels, *sizes]) < 1:
        raise ValueError(f"sizes of layers must be >= 1, got cnn_channels={channels} and {sizes}")
