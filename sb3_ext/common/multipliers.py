"""Multipliers: the price of risk, learned, scheduled or fixed. All are modules, so that they are saved as parts."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch as th
from torch import nn


class Multiplier(nn.Module):
    """A fixed multiplier, and the base of the others.

    Args:
        value: the multiplier, finite and >= 0.

    Raises:
        ValueError: if ``value`` is negative or not finite.

    Examples:
        >>> Multiplier(2.0).value
        2.0
    """

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"a multiplier must be finite and >= 0, got {value}")
        self.register_buffer("initial", th.tensor(float(value), dtype=th.float64))

    @property
    def value(self) -> float:
        """The multiplier now."""
        return float(self.get_buffer("initial"))

    def update(self, excess: float) -> None:
        """Move the multiplier, given by how much the constraint is exceeded (negative: satisfied)."""

    def set_progress(self, progress: float) -> None:
        """Told at every update which share of the training is over, in [0, 1]."""


class GradientMultiplier(Multiplier):
    """Dual ascent on the excess.

    Args:
        value: initial multiplier.
        learning_rate: of the optimiser.
        space: ``"log"``: the logarithm is learned, so that the multiplier stays positive (Recovery RL's
            comparisons); ``"linear"``: the multiplier is learned and projected to >= 0.
        optimizer: ``"adam"`` (moves by about ``learning_rate`` whatever the excess is) or ``"sgd"``.
        max_value: upper bound: where the limit cannot be met, the logarithm would grow until the loss is infinite.
        min_value: lower bound. In ``"log"`` space a long safe stretch takes the multiplier so near to 0 that it is
            long before it acts again (after 40,000 updates with the defaults: 7,000); a bound of 1e-3, say, helps.

    Examples:
        >>> price = GradientMultiplier(1.0, learning_rate=0.5, space="linear", optimizer="sgd")
        >>> price.update(0.2)
        >>> round(price.value, 6)
        1.1
    """

    def __init__(
        self,
        value: float = 1.0,
        learning_rate: float = 1e-3,
        space: Literal["log", "linear"] = "log",
        optimizer: Literal["adam", "sgd"] = "adam",
        max_value: float = 1e6,
        min_value: float = 0.0,
    ) -> None:
        super().__init__(value)
        if space not in ("log", "linear") or optimizer not in ("adam", "sgd"):
            raise ValueError(
                f"space must be 'log' or 'linear' and optimizer 'adam' or 'sgd', got {space!r}, {optimizer!r}"
            )
        if space == "log" and value <= 0.0:
            raise ValueError(f"a multiplier with space='log' must start above 0, got {value}; use space='linear'")
        if not 0.0 <= min_value <= value <= max_value:
            raise ValueError(f"a multiplier must start between {min_value=} >= 0 and {max_value=}, got {value}")
        self.space, self.learning_rate = space, learning_rate
        self._kind: dict[str, str] = {"space": space, "optimizer": optimizer}
        self._bounds = (min_value, max_value)
        if space == "log":
            self._bounds = (math.log(min_value) if min_value else -math.inf, math.log(max_value))
        start = math.log(value) if space == "log" else value
        self.raw = nn.Parameter(th.tensor(start, dtype=th.float64))
        kind = th.optim.Adam if optimizer == "adam" else th.optim.SGD
        self.optimizer: th.optim.Optimizer = kind([self.raw], lr=learning_rate)

    @property
    def value(self) -> float:
        """The multiplier now."""
        return math.exp(self.raw.item()) if self.space == "log" else self.raw.item()

    def update(self, excess: float) -> None:
        """One step of gradient ascent on ``multiplier * excess``."""
        slope = self.value if self.space == "log" else 1.0
        self.raw.grad = th.tensor(-excess * slope, dtype=th.float64)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate  # a loaded state has brought its own
        self.optimizer.step()
        with th.no_grad():
            self.raw.clamp_(*self._bounds)

    def get_extra_state(self) -> dict[str, str]:
        """What the numbers of the state mean."""
        return self._kind

    def set_extra_state(self, state: dict[str, str]) -> None:
        """Compare what they mean.

        Raises:
            ValueError: if the state is of another ``space`` or ``optimizer``.
        """
        if state != self._kind:
            raise ValueError(
                f"the saved multiplier has {state}, this one {self._kind}: add {state} to multiplier_kwargs"
            )


class PIDMultiplier(Multiplier):
    """PID control of the excess (Stooke et al. 2020, algorithm 2).

    Args:
        value: initial integral.
        kp: proportional gain.
        ki: integral gain.
        kd: derivative gain, on the increase of the excess only.
        smoothing: exponential averages of the excess keep this share of the old value, in [0, 1).

    Examples:
        >>> price = PIDMultiplier(kp=1.0, ki=0.5, kd=0.0, smoothing=0.0)
        >>> price.update(0.2)
        >>> round(price.value, 6)
        0.3
    """

    def __init__(
        self, value: float = 0.0, kp: float = 0.1, ki: float = 0.01, kd: float = 0.01, smoothing: float = 0.9
    ) -> None:
        super().__init__(value)
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        self.gains, self.smoothing = (kp, ki, kd), smoothing
        for name, start in (("output", value), ("integral", value), ("average", 0.0), ("previous", 0.0)):
            self.register_buffer(name, th.tensor(float(start), dtype=th.float64))

    @property
    def value(self) -> float:
        """The multiplier now."""
        return float(self.get_buffer("output"))

    def update(self, excess: float) -> None:
        """One control step."""
        kp, ki, kd = self.gains
        integral, average = self.get_buffer("integral"), self.get_buffer("average")
        previous, output = self.get_buffer("previous"), self.get_buffer("output")
        average.mul_(self.smoothing).add_((1.0 - self.smoothing) * excess)
        integral.add_(ki * excess).clamp_(min=0.0)
        increase = (average - previous).clamp(min=0.0)
        previous.copy_(average)
        output.copy_((kp * average + integral + kd * increase).clamp(min=0.0))


class ScheduleMultiplier(Multiplier):
    """Linear schedule from ``start`` to ``end``.

    Args:
        start: first value.
        end: last value.
        duration: number of updates that it takes; None: it follows the progress of the training.

    Examples:
        >>> price = ScheduleMultiplier(10.0, 0.0)
        >>> price.set_progress(0.25)
        >>> price.value
        7.5
    """

    def __init__(self, start: float, end: float = 0.0, duration: int | None = None) -> None:
        super().__init__(start)
        if not (math.isfinite(end) and end >= 0.0):
            raise ValueError(f"end must be finite and >= 0, got {end}")
        if duration is not None and duration < 1:
            raise ValueError(f"duration must be >= 1 or None, got {duration}")
        self.end, self.duration = float(end), duration
        self.register_buffer("progress", th.tensor(0.0, dtype=th.float64))

    @property
    def value(self) -> float:
        """The multiplier now."""
        start, progress = float(self.get_buffer("initial")), float(self.get_buffer("progress"))
        return start + (self.end - start) * progress

    def update(self, excess: float) -> None:
        """Count one update (of ``duration``); the excess does not matter."""
        if self.duration is not None:
            self.get_buffer("progress").add_(1.0 / self.duration).clamp_(max=1.0)

    def set_progress(self, progress: float) -> None:
        """Follow the training, unless a ``duration`` was given."""
        if self.duration is None:
            self.get_buffer("progress").fill_(min(max(progress, 0.0), 1.0))


MULTIPLIERS: dict[str, type[Multiplier]] = {
    "fixed": Multiplier,
    "gradient": GradientMultiplier,
    "pid": PIDMultiplier,
    "schedule": ScheduleMultiplier,
}


def make_multiplier(name: str, kwargs: dict[str, Any], **gradient: Any) -> Multiplier:
    """The multiplier of that name.

    Args:
        name: in ``MULTIPLIERS``.
        kwargs: its arguments.
        **gradient: arguments of ``"gradient"`` where ``kwargs`` do not say otherwise.

    Raises:
        ValueError: for an unknown name or arguments that it does not take.
    """
    if name not in MULTIPLIERS:
        raise ValueError(f"multiplier must be one of {sorted(MULTIPLIERS)}, got {name!r}")
    try:
        return MULTIPLIERS[name](**(gradient | kwargs if name == "gradient" else kwargs))
    except TypeError as error:
        raise ValueError(f"multiplier_kwargs do not fit multiplier={name!r}: {error}") from error
