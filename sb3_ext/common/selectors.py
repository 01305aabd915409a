"""Action selectors: what is executed, given what is proposed. All tensors hold actions scaled to [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

import torch as th

from safe_wrappers.observations import map_entries
from sb3_ext.common.safety_critic import SafetyCritic

Choice = Literal["policy", "density", "risky"]

Propose = Callable[[int], tuple[th.Tensor, th.Tensor]]
"""``propose(n)``: ``n`` further actions of the policy ``[n, B, A]`` and their log-densities ``[n, B]``."""


class RecoveryPolicy(Protocol):
    """What acts when the proposed action is too risky."""

    def act(self, obs: Any, deterministic: bool) -> th.Tensor:
        """Actions ``[B, A]``."""


class ActionSelector(Protocol):
    """Decides which action is executed."""

    def select(
        self, obs: Any, proposed: th.Tensor, propose: Propose, deterministic: bool
    ) -> tuple[th.Tensor, th.Tensor]:
        """Executed actions ``[B, A]`` and which of the proposed ones were refused ``[B]`` bool."""


class Limited:
    """What has a limit: a number, or a function that gives it each time."""

    def __init__(self, eps_risk: float | Callable[[], float]) -> None:
        self.limit = eps_risk

    @property
    def eps_risk(self) -> float:
        """The limit now."""
        return self.limit() if callable(self.limit) else self.limit


class ThresholdRecovery(Limited):
    """Recovery RL's composite policy: the recovery policy acts where risk(s, a) > eps_risk (equation 4.1)."""

    def __init__(self, critic: SafetyCritic, recovery: RecoveryPolicy, eps_risk: float | Callable[[], float]) -> None:
        super().__init__(eps_risk)
        self.critic, self.recovery = critic, recovery

    def select(
        self, obs: Any, proposed: th.Tensor, propose: Propose, deterministic: bool
    ) -> tuple[th.Tensor, th.Tensor]:
        """See ``ActionSelector``."""
        refused = self.critic(obs, proposed).squeeze(1) > self.eps_risk
        if not refused.any():
            return proposed, refused
        return th.where(refused.unsqueeze(1), self.recovery.act(obs, deterministic), proposed), refused


def check_choice(name: str, choice: Choice) -> Choice:
    """Return ``choice``; raise ``ValueError`` if it is none of ``RejectionSampling``'s."""
    if choice not in get_args(Choice):
        raise ValueError(f"{name} must be 'policy', 'density' or 'risky', got {choice!r}")
    return choice


class RejectionSampling(Limited):
    """SQRL's masked policy (equation 3): the policy, restricted to actions with risk <= eps_risk.

    Args:
        critic: the safety critic.
        eps_risk: the limit, or a function that gives it.
        n_candidates: further actions to draw where the proposed one is refused.
        choice: ``"policy"``: the proposed action, or else one of the safe candidates, which is a sample of
            equation 3; ``"density"``: a safe candidate drawn in proportion to its density (the released code of
            Recovery RL: the policy's density counts twice); ``"risky"``: the riskiest of the safe candidates
            (SQRL's pre-training, section 6). Where no candidate is safe, the least risky one is taken.
    """

    def __init__(
        self,
        critic: SafetyCritic,
        eps_risk: float | Callable[[], float],
        n_candidates: int = 100,
        choice: Choice = "policy",
    ) -> None:
        if n_candidates < 1:
            raise ValueError(f"n_candidates must be >= 1, got {n_candidates}")
        super().__init__(eps_risk)
        self.critic, self.n_candidates = critic, n_candidates
        self.choice = check_choice("choice", choice)

    def select(
        self, obs: Any, proposed: th.Tensor, propose: Propose, deterministic: bool
    ) -> tuple[th.Tensor, th.Tensor]:
        """See ``ActionSelector``; ``deterministic`` keeps a safe proposal, else takes the densest safe candidate."""
        refused = self.critic(obs, proposed).squeeze(1) > self.eps_risk
        keep_proposed = deterministic or self.choice == "policy"
        if keep_proposed and not refused.any():
            return proposed, refused
        candidates, log_density = propose(self.n_candidates)
        chosen = self._choose(obs, candidates, log_density, deterministic)
        if keep_proposed:
            chosen = th.where(refused.unsqueeze(1), chosen, proposed)
        return chosen, refused

    def _choose(
        self, obs: Any, candidates: th.Tensor, log_density: th.Tensor, deterministic: bool = False
    ) -> th.Tensor:
        n, n_obs = candidates.shape[:2]
        risk = self.critic(_repeat(obs, n), candidates.flatten(0, 1)).reshape(n, n_obs)
        scores = {
            "policy": th.zeros_like(risk),
            "density": log_density,
            "risky": th.log(risk.clamp_min(1e-12)) * 1e6,  # so steep that the riskiest safe candidate wins
        }["density" if deterministic else self.choice]
        scores = scores.masked_fill(risk > self.eps_risk, -th.inf)
        none_safe = (risk > self.eps_risk).all(dim=0)
        scores[:, none_safe] = 0.0
        index = scores.argmax(dim=0) if deterministic else th.multinomial(th.softmax(scores, dim=0).T, 1).squeeze(1)
        index = th.where(none_safe, risk.argmin(dim=0), index)
        return candidates[index, th.arange(n_obs)]


def _repeat(obs: Any, n: int) -> Any:
    return map_entries(lambda entries: entries.repeat(n, *([1] * (entries.dim() - 1))), obs)
