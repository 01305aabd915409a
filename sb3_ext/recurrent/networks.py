"""The parts of the recurrent agent's network: trunk (CNN and GRU), Gaussian policy, value heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_ext.recurrent.observations import ObservationLayout, TensorObs, is_channels_first

KERNELS = ((8, 4), (4, 2), (3, 1))  # size and stride of the Nature CNN's layers (Mnih et al. 2015)
SMALLEST_IMAGE = 36  # what these kernels need
OUTPUT_SCALE = 0.01  # of the weights of last layers: values start near 0, actions near uniform
LOG_STD_BOUNDS = (-20.0, 2.0)  # as in SB3's SAC
SQUASHED_EPSILON = 1e-6  # as in SB3's SAC; keeps the log-density finite where tanh is 1


def lecun_normal(module: nn.Module) -> None:
    """Weights of variance 1 / inputs and zero biases, which SELU's self-normalisation asks for."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def mlp(n_inputs: int, hidden: Sequence[int], n_outputs: int) -> nn.Sequential:
    """Linear layers with SELU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise([n_inputs, *hidden]):
        layers += [nn.Linear(n_in, n_out), nn.SELU()]
    last = nn.Linear(hidden[-1], n_outputs)
    network = nn.Sequential(*layers, last).apply(lecun_normal)
    with th.no_grad():
        last.weight.mul_(OUTPUT_SCALE)
    return network


def nature_cnn(shape: tuple[int, ...], channels: Sequence[int]) -> tuple[nn.Sequential, int]:
    """The Nature CNN's three convolutions with SELU, and how many numbers come out.

    Args:
        shape: of the image, channels first or last.
        channels: of the three layers.

    Raises:
        ValueError: if the image is too small.
    """
    n_channels, *sides = shape if is_channels_first(shape) else (shape[2], *shape[:2])
    if min(sides) < SMALLEST_IMAGE:
        raise ValueError(f"images need at least {SMALLEST_IMAGE} pixels a side for the Nature CNN, got {shape}")
    layers: list[nn.Module] = []
    for (n_in, n_out), (size, stride) in zip(pairwise([n_channels, *channels]), KERNELS, strict=True):
        layers += [nn.Conv2d(n_in, n_out, size, stride), nn.SELU()]
        sides = [(side - size) // stride + 1 for side in sides]
    network = nn.Sequential(*layers, nn.Flatten()).apply(lecun_normal)
    # oneDNN is two to three times faster on images whose channels lie side by side.
    return network.to(memory_format=th.channels_last), channels[-1] * math.prod(sides)  # type: ignore[call-overload]


class Trunk(nn.Module):
    """Figure 5 up to the GRU: images -> CNN -> embedding, joined with the vectors, -> GRU.

    Args:
        layout: what is read of the observation.
        cnn_channels: of the three convolutions.
        cnn_embedding: size of the embedding of all images together.
        gru_size: size ``H`` of the hidden state.
    """

    def __init__(
        self, layout: ObservationLayout, cnn_channels: Sequence[int], cnn_embedding: int, gru_size: int
    ) -> None:
        super().__init__()
        self.layout, self.gru_size = layout, gru_size
        made = [nature_cnn(shape, cnn_channels) for shape in layout.images.values()]
        self.cnns = nn.ModuleList(cnn for cnn, _ in made)
        self.embedding: nn.Sequential | None = None
        n_inputs = sum(layout.vectors.values())
        if made:
            linear = nn.Linear(sum(size for _, size in made), cnn_embedding)
            self.embedding = nn.Sequential(linear, nn.SELU()).apply(lecun_normal)
            n_inputs += cnn_embedding
        self.gru = nn.GRU(n_inputs, gru_size)

    def features(self, obs: TensorObs) -> th.Tensor:
        """What the GRU reads, ``[N, F]``, of observations ``[N, ...]``."""
        parts = [obs[name] for name in self.layout.vectors]
        if self.embedding is not None:
            seen = [cnn(obs[name]) for cnn, name in zip(self.cnns, self.layout.images, strict=True)]
            parts = [self.embedding(th.cat(seen, dim=1)), *parts]
        return th.cat(parts, dim=1)

    def forward(self, obs: TensorObs, hidden: th.Tensor, starts: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Run over sequences; the hidden state is 0 where an episode starts.

        Args:
            obs: ``[L * B, ...]``, time-major.
            hidden: state before the first step, ``[B, H]``.
            starts: whether a step is the first of an episode, bool ``[L, B]``.

        Returns:
            Outputs ``[L, B, H]`` and the state after the last step, ``[B, H]``.
        """
        return self.recur(self.features(obs).unflatten(0, starts.shape), hidden, starts)

    def recur(self, features: th.Tensor, hidden: th.Tensor, starts: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """``forward`` from features ``[L, B, F]``."""
        # Only where an episode starts must the recurrence be interrupted: PyTorch's own loop is twice as fast as ours.
        cuts = [0, *(starts[1:].any(dim=1).nonzero().squeeze(1) + 1).tolist(), len(starts)]
        state, outputs = hidden, []
        for begin, end in pairwise(cuts):
            state = state * ~starts[begin].unsqueeze(1)
            part, last = self.gru(features[begin:end], state.unsqueeze(0))
            state = last.squeeze(0)
            outputs.append(part)
        return th.cat(outputs) if len(outputs) > 1 else outputs[0], state


class GaussianActor(nn.Module):
    """SAC's policy: a Gaussian, squashed by tanh, from the hidden state.

    Args:
        n_inputs: size of the hidden state.
        hidden: hidden layers.
        n_actions: entries ``A`` of an action.
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], n_actions: int) -> None:
        super().__init__()
        self.n_actions = n_actions
        self.network = mlp(n_inputs, hidden, 2 * n_actions)

    def forward(self, latent: th.Tensor, noise: th.Tensor | None = None) -> tuple[th.Tensor, th.Tensor]:
        """Actions in [-1, 1], ``[..., A]``, and their log-densities ``[...]``.

        Args:
            latent: outputs of the trunk, ``[..., H]``.
            noise: standard normal numbers ``[..., A]``; None: drawn from PyTorch's generator.
        """
        mean, log_std = self.network(latent).chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD_BOUNDS)
        noise = th.randn_like(mean) if noise is None else noise
        actions = th.tanh(mean + log_std.exp() * noise)
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        return actions, (gaussian - th.log(1.0 - actions.square() + SQUASHED_EPSILON)).sum(dim=-1)

    def mode(self, latent: th.Tensor) -> th.Tensor:
        """The deterministic actions ``[..., A]``."""
        return th.tanh(self.network(latent).chunk(2, dim=-1)[0])


class ValueHeads(nn.Module):
    """Q1, Q2 (return) and Qc (cost) of hidden states and actions.

    Args:
        n_inputs: size of the hidden state.
        hidden: hidden layers.
        n_actions: entries of an action.
    """

    N_HEADS = 3

    def __init__(self, n_inputs: int, hidden: Sequence[int], n_actions: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(mlp(n_inputs + n_actions, hidden, 1) for _ in range(self.N_HEADS))

    def forward(self, latent: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Values ``[3, ...]`` of latents ``[..., H]`` and actions ``[..., A]``."""
        inputs = th.cat([latent, actions], dim=-1)
        # One after another: products in batches (bmm) take a fifth longer on a CPU.
        return th.stack([network(inputs).squeeze(-1) for network in self.networks])


def masked_mean(values: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """Mean over the entries of ``[..., T, B]`` where ``mask`` ``[T, B]`` is 1."""
    return (values * mask).sum() / (mask.sum().clamp(min=1.0) * (values.numel() // mask.numel()))


def squared_error(values: th.Tensor, targets: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """SAC's loss of the heads, ``[3, T, B]``: half the mean square of each, added up."""
    return 0.5 * len(values) * masked_mean(F.mse_loss(values, targets, reduction="none"), mask)


class Temperature(nn.Module):
    """SAC's entropy coefficient, learned so that the policy keeps a given entropy.

    Args:
        initial: first coefficient.
        target_entropy: of the policy.
        learning_rate: of Adam.
    """

    def __init__(self, initial: float, target_entropy: float, learning_rate: float) -> None:
        super().__init__()
        self.target_entropy = target_entropy
        self.logarithm = nn.Parameter(th.tensor(math.log(initial)))
        self.optimizer = th.optim.Adam([self.logarithm], lr=learning_rate)

    @property
    def value(self) -> float:
        """The coefficient now."""
        return math.exp(self.logarithm.item())

    def update(self, entropy: float) -> None:
        """One step: the coefficient rises while the policy's mean entropy is below the target."""
        self.logarithm.grad = th.full_like(self.logarithm, entropy - self.target_entropy)
        self.optimizer.step()
