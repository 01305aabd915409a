"""Networks of one shape that are evaluated together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch as th
from torch import nn


class EnsembleMLP(nn.Module):
    """``n`` ReLU networks of one shape, evaluated together: input ``[B, in]`` -> ``[n, B]``."""

    def __init__(self, n: int, in_features: int, net_arch: Sequence[int]) -> None:
        super().__init__()
        sizes = [in_features, *net_arch, 1]
        shapes = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList([nn.Parameter(_xavier(n, i, o)) for i, o in shapes])
        self.biases = nn.ParameterList([nn.Parameter(th.zeros(n, 1, o)) for _, o in shapes])

    def layers(self) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """Weights ``[n, in, out]`` and biases ``[n, 1, out]`` of the layers."""
        return list(self.weights), list(self.biases)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Output of every member, ``[n, B]``."""
        weights, biases = self.layers()
        hidden = x.expand(weights[0].shape[0], *x.shape)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            hidden = th.relu(th.baddbmm(bias, hidden, weight))
        # A product with one column is several times slower as a matrix product than as a weighted sum.
        return (hidden * weights[-1].transpose(1, 2)).sum(-1) + biases[-1].squeeze(-1)

    def fit(self, x: th.Tensor, loss_of: Callable[[th.Tensor], th.Tensor]) -> float:
        """Give the weights their gradients of a loss of the outputs ``[n, B]``; returns it."""
        loss = loss_of(self(x))
        loss.backward()
        return loss.item()


class GeneratedMLP(EnsembleMLP):
    """``EnsembleMLP`` whose weights and biases are linear functions of a learned latent vector for each layer.

    The safety critic of MESA's released code: a gradient step on the latents moves all weights of a layer together.

    Args:
        n: members.
        in_features: inputs.
        net_arch: hidden layers.
        latent_dim: entries of each latent vector.
    """

    def __init__(self, n: int, in_features: int, net_arch: Sequence[int], latent_dim: int) -> None:
        super().__init__(n, in_features, net_arch)
        self.shapes = [tuple(weight.shape[1:]) for weight in self.weights]
        del self.weights, self.biases
        # Scaled so that the generated weights have the variance of Xavier's.
        self.latents = nn.ParameterList([th.randn(n, latent_dim) * o**-0.5 for _, o in self.shapes])
        self.generators = nn.ParameterList([
            th.randn(n, latent_dim, (i + 1) * o) * (2.0 * o / ((i + o) * latent_dim)) ** 0.5 for i, o in self.shapes
        ])  # fmt: skip

    def layers(self) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """See ``EnsembleMLP``."""
        weights, biases = [], []
        for (i, o), latent, generator in zip(self.shapes, self.latents, self.generators, strict=True):
            generated = th.einsum("nz,nzw->nw", latent, generator)
            weights.append(generated[:, : i * o].unflatten(1, (i, o)))
            biases.append(generated[:, None, i * o :])
        return weights, biases


def _xavier(n: int, in_features: int, out_features: int) -> th.Tensor:
    weight = th.empty(n, in_features, out_features)
    for member in weight:
        nn.init.xavier_uniform_(member)
    return weight
