"""Features of observations, standardised: where safety critics, recovery policies and cost models begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose, preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from torch import nn

CONSTANT = 1e-6
"""Deviation below which a feature counts as constant."""


class ScaledFeatures(nn.Module):
    """Base of networks on observations: SB3's features extractor, then a standardisation that begins as none.

    Args:
        observation_space: any space that SB3 has a features extractor for.
        features_extractor_class: SB3 extractor; None: by the space.
        features_extractor_kwargs: its arguments.
    """

    observation_mean: th.Tensor
    observation_std: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.observation_space = observation_space
        make = features_extractor_class or _extractor_class(observation_space)
        self.features: BaseFeaturesExtractor = make(observation_space, **(features_extractor_kwargs or {}))
        self.register_buffer("observation_mean", th.zeros(self.features.features_dim))
        self.register_buffer("observation_std", th.ones(self.features.features_dim))

    @property
    def learns_features(self) -> bool:
        """Whether the extractor has weights, as that of images has; nothing is to be standardised then."""
        return any(True for _ in self.features.parameters())

    def scaled(self, obs: Any) -> th.Tensor:
        """Features ``[B, F]`` of observations ``[B, ...]``, as tensors."""
        features = self.features(preprocess_obs(obs, self.observation_space))
        return (features - self.observation_mean) / self.observation_std

    @th.no_grad()
    def standardise(self, obs: Any) -> None:
        """From now on features are standardised by these ``[N, ...]``; constant ones are only shifted."""
        mean, std = standardisation(self.features(preprocess_obs(obs, self.observation_space)))
        self.observation_mean.copy_(mean)
        self.observation_std.copy_(std)

    def standardise_like(self, other: ScaledFeatures) -> None:
        """Take over the standardisation of another network."""
        self.observation_mean.copy_(other.observation_mean)
        self.observation_std.copy_(other.observation_std)


def _extractor_class(space: spaces.Space[Any]) -> type[BaseFeaturesExtractor]:
    """SB3's choice for a space, so that any observation of SB3 can carry a risk."""
    if isinstance(space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor


def standardisation(features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Mean and deviation of each column of ``[N, F]``; 1 where it is constant: nothing is known of its scale."""
    std = features.std(dim=0, correction=0)
    return features.mean(dim=0), th.where(std < CONSTANT, th.ones_like(std), std)


def channels_first(obs: Any, space: spaces.Space[Any]) -> Any:
    """Batched NumPy observations of ``space``, with images as networks take them: environments give channels last."""
    if isinstance(space, spaces.Dict) and isinstance(obs, dict) and set(obs) == set(space.spaces):
        return {key: channels_first(obs[key], part) for key, part in space.spaces.items()}
    return obs if isinstance(obs, dict) else maybe_transpose(np.asarray(obs), space)


def as_tensors(obs: Any, space: spaces.Space[Any], device: th.device) -> Any:
    """Batched NumPy observations of ``space`` as tensors."""
    if isinstance(space, spaces.Dict):
        return {key: as_tensors(obs[key], part, device) for key, part in space.spaces.items()}
    return th.as_tensor(channels_first(obs, space), device=device)
