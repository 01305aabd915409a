"""The papers' experiments as data: environment, phases, methods, budgets, claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Stage:
    """One stretch of interaction with an environment.

    Attributes:
        name: label in the result files.
        env_id: environment.
        env_kwargs: its arguments.
        episodes: stop after so many episodes, or
        steps: after so many steps (exactly one of the two is set).
        call: the model's method: ``learn``, or SQRL's ``pretrain`` and ``finetune`` (others just learn).
    """

    name: str
    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    episodes: int | None = None
    steps: int | None = None
    call: Literal["learn", "pretrain", "finetune"] = "learn"


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Attributes:
        stages: what is learned, in order; the last one is what reports are about.
        offline_transitions: requested size of the offline constraint data (0: none are used).
        pretrain_updates: gradient steps of the safety critic on them.
        eval_episodes: evaluation episodes, each of deterministic and stochastic.
        seeds: default seeds.
    """

    stages: tuple[Stage, ...]
    offline_transitions: int = 0
    pretrain_updates: int = 0
    eval_episodes: int = 50
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Method:
    """An algorithm and its hyper-parameters.

    Attributes:
        label: name in tables and plots.
        algorithm: name of the class in ``sb3_ext``.
        kwargs: its arguments.
        offline: pre-train on the offline data.
        reward_penalty: subtract this from the reward per unit of cost (0: not).
        group: ``"comparison"`` or ``"ablation"``.
    """

    label: str
    algorithm: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    offline: bool = True
    reward_penalty: float = 0.0
    group: Literal["comparison", "ablation"] = "comparison"


@dataclass(frozen=True)
class Protocol:
    """One experiment of one paper.

    Attributes:
        name: what the command line calls it.
        title: headline of the report.
        paper: source.
        claim: what the paper claims, to be held against the results.
        subject: the method that the claim is about.
        measure: what the claim compares: the ratio of successes to violations, or the violation rate of the training
            episodes; None: something that the tables do not hold (a path, say).
        methods: by name.
        presets: budgets by name.
        default_methods: run if none are named.
    """

    name: str
    title: str
    paper: str
    claim: str
    subject: str
    measure: Literal["ratio", "violation-rate"] | None
    methods: Mapping[str, Method]
    presets: Mapping[str, Budget]
    default_methods: tuple[str, ...]

    def budget(self, preset: str) -> Budget:
        """The budget of that name.

        Raises:
            ValueError: naming the known ones, if there is none.
        """
        if preset not in self.presets:
            raise ValueError(f"preset must be one of {sorted(self.presets)} for {self.name}, got {preset!r}")
        return self.presets[preset]

    def method(self, name: str) -> Method:
        """The method of that name.

        Raises:
            ValueError: naming the known ones, if there is none.
        """
        if name not in self.methods:
            raise ValueError(f"method must be one of {sorted(self.methods)} for {self.name}, got {name!r}")
        return self.methods[name]


def run_config(protocol: Protocol, preset: str, method: str, seed: int) -> dict[str, Any]:
    """Everything that decides the outcome of one run, as plain data."""
    return {
        "protocol": protocol.name,
        "preset": preset,
        "method": method,
        "seed": seed,
        "definition": _plain(asdict(protocol.method(method))),
        "budget": _plain({k: v for k, v in asdict(protocol.budget(preset)).items() if k != "seeds"}),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------- Recovery RL

RECOVERY_RL_PAPER = "Thananjeyan et al., Recovery RL (RA-L 2021); thesis chapters 4 and 5, appendix A"

# Shared by all methods, from the released code: temperature 0.2, 100 random steps (2 x 256 is SB3's default).
_SAC = {"ent_coef": 0.2, "learning_starts": 100, "buffer_size": 100_000, "optimize": "fused"}


def _recovery_rl_methods(
    gamma_risk: float, eps_risk: float, multiplier: float, penalty: float, rcpo: float, episodes: int
) -> dict[str, Method]:
    """The comparison of figure 5.2 and the ablation of figure 5.4, with the values of table A.2."""
    risk = {**_SAC, "gamma_risk": gamma_risk, "eps_risk": eps_risk}
    learned = {"multiplier_kwargs": {"value": multiplier, "learning_rate": 3e-5}}
    rrl = Method("Recovery RL", "RecoveryRL", risk)
    lr = Method("LR", "SACLag", risk | learned)
    sqrl = Method("SQRL", "SQRL", {**risk, **learned, "risk_kwargs": {"tau": 2e-4}})  # as all methods here
    return {
        "unconstrained": Method("Unconstrained", "SafeSAC", _SAC, offline=False),
        "lr": lr,
        "rspo": Method("RSPO", "RSPO", risk | {"multiplier_start": 2 * multiplier, "anneal_episodes": episodes}),
        "sqrl": sqrl,
        "rp": Method("RP", "SafeSAC", _SAC, offline=False, reward_penalty=penalty),
        "rcpo": Method("RCPO", "RCPO", risk | {"multiplier_kwargs": {"value": rcpo, "learning_rate": 3e-5}}),
        "recovery-rl": rrl,
        "recovery-rl-no-relabel": _ablation(rrl, "without relabelling", relabel=False),
        "recovery-rl-no-offline": replace(_ablation(rrl, "without offline pre-training"), offline=False),
        "recovery-rl-no-online": _ablation(rrl, "without online updates", online_updates=False),
        "recovery-rl-composite": _ablation(rrl, "composite next action", composite=True),
        "recovery-rl-scaled": _ablation(rrl, "scaled critic inputs", scale_inputs=True),
        "recovery-rl-fast-target": _ablation(rrl, "risk target's tau 0.005", risk_kwargs={"tau": 0.005}),
        "recovery-rl-tuned": _ablation(rrl, "tuned", scale_inputs=True, composite=True, risk_kwargs={"tau": 0.005}),
        "lr-fixed": replace(lr, label="LR, fixed multiplier", group="ablation",
                            kwargs=risk | {"fixed_multiplier": multiplier}),
        "sqrl-fixed": replace(sqrl, label="SQRL, fixed multiplier", group="ablation", kwargs={
            **sqrl.kwargs, "multiplier_kwargs": None, "fixed_multiplier": multiplier, "choice": "density",
        }),
    }  # fmt: skip


def _ablation(method: Method, what: str, **kwargs: Any) -> Method:
    return replace(method, label=f"{method.label}, {what}", kwargs={**method.kwargs, **kwargs}, group="ablation")


def _recovery_rl(name: str, env_id: str, title: str, **values: float) -> Protocol:
    def budget(episodes: int, transitions: int, updates: int, evaluate: int, seeds: range) -> Budget:
        stage = Stage("train", env_id, episodes=episodes)
        return Budget((stage,), transitions, updates, evaluate, tuple(seeds))

    methods = _recovery_rl_methods(**values, episodes=300)
    return Protocol(
        name=name,
        title=title,
        paper=RECOVERY_RL_PAPER,
        claim="Recovery RL has a higher ratio (successes + 1) / (violations + 1) than every comparison method.",
        subject="recovery-rl",
        measure="ratio",
        methods=methods,
        presets={
            "quick": budget(50, 10_000, 1_000, 20, range(2)),
            "paper": budget(300, 20_000, 10_000, 50, range(5)),
        },
        default_methods=tuple(key for key, method in methods.items() if method.group == "comparison"),
    )


def _demo() -> Protocol:
    """Two methods on Navigation 2, small enough to watch.

    Three settings of Recovery RL are not the published ones: standardised inputs of safety critic and recovery policy,
    a target rate of 0.005, and next actions of the filtered policy in the risk's target (the paper's definition). They
    were chosen on tuning seed 100; docs/results.md says what they change.
    """
    full = _recovery_rl(
        "recovery-rl/demo", "safe/Navigation2-v0", "Demo: Recovery RL against plain SAC on Navigation 2",
        gamma_risk=0.65, eps_risk=0.1, multiplier=1000, penalty=3000, rcpo=5000,
    )  # fmt: skip
    tuned = replace(full.methods["recovery-rl-tuned"], label="Recovery RL (tuned)", group="comparison")
    methods = {"unconstrained": full.methods["unconstrained"], "recovery-rl": tuned}
    budget = Budget((Stage("train", "safe/Navigation2-v0", episodes=100),), 20_000, 3_000, 50, (0,))
    return replace(full, methods=methods, presets={"quick": budget}, default_methods=tuple(methods))


# ---------------------------------------------------------------------- SQRL

SQRL_PAPER = "Srinivasan et al., Learning to be Safe: Deep RL with a Safety Critic (2020)"
_SPIDER = "safe/DrunkSpider-v0"
_TARGET_GOAL = (6.5, 3.5)


def _spider_budget(pretrain: int, finetune: int, noise: float, evaluate: int, seeds: range) -> Budget:
    return Budget(
        stages=(
            Stage("pretrain", _SPIDER, {"action_noise": noise}, steps=pretrain, call="pretrain"),
            Stage("finetune", _SPIDER, {"action_noise": noise, "goal": _TARGET_GOAL}, steps=finetune, call="finetune"),
        ),
        eval_episodes=evaluate,
        seeds=tuple(seeds),
    )


def _spider(
    name: str,
    title: str,
    claim: str,
    subject: str,
    measure: Literal["violation-rate"] | None,
    noise: float,
    methods: Mapping[str, Method],
) -> Protocol:
    return Protocol(
        name=name,
        title=title,
        paper=SQRL_PAPER,
        claim=claim,
        subject=subject,
        measure=measure,
        methods=methods,
        presets={
            "quick": _spider_budget(3_000, 3_000, noise, 20, range(2)),
            "short": _spider_budget(50_000, 50_000, noise, 100, range(5)),
            "paper": _spider_budget(50_000, 500_000, noise, 100, range(1)),
        },
        default_methods=tuple(methods),
    )


_SPIDER_SAC = {"learning_starts": 500, "buffer_size": 600_000, "optimize": "fused"}
_SPIDER_RISK = {**_SPIDER_SAC, "gamma_risk": 0.65, "eps_risk": 0.1, "risk_kwargs": {"tau": 0.005}}
# The released code takes 10 updates after every 1000 steps, the paper prints one; with the mask on from the start (as
# printed) so few leave the critic untrained, and its mask harmful, for most of 50,000 steps. Tuned on seed 100.
_SAFETY_UPDATES = 1000


def _sqrl(eps_risk: float) -> Method:
    return Method(
        f"SQRL, eps {eps_risk:g}",
        "SQRL",
        {**_SPIDER_RISK, "eps_risk": eps_risk, "safety_updates": _SAFETY_UPDATES},
        offline=False,
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _demo(),
        _recovery_rl(
            "recovery-rl/navigation1", "safe/Navigation1-v0", "Recovery RL: Navigation 1",
            gamma_risk=0.8, eps_risk=0.3, multiplier=5000, penalty=1000, rcpo=1000,
        ),
        _recovery_rl(
            "recovery-rl/navigation2", "safe/Navigation2-v0", "Recovery RL: Navigation 2",
            gamma_risk=0.65, eps_risk=0.1, multiplier=1000, penalty=3000, rcpo=5000,
        ),
        _spider(
            "sqrl/drunk-spider", "SQRL: drunk spider",
            "All methods learn the task; only SQRL is safe while it learns, with a fall rate of about 1 %.",
            "sqrl", "violation-rate", 0.1,
            {
                "sac": Method("SAC", "SafeSAC", _SPIDER_SAC, offline=False),
                "sqrl": _sqrl(0.1),
                "risk-sensitive": Method("Risk-sensitive SAC", "RiskSensitiveSAC", _SPIDER_RISK, offline=False),
            },
        ),
        _spider(
            "sqrl/drunk-spider-eps", "SQRL: drunk spider, two limits at action noise 0.2",
            "The agent with eps 0.05 walks around the lava, the one with eps 0.2 crosses the bridge.",
            "sqrl-0.05", None, 0.2,
            {"sqrl-0.05": _sqrl(0.05), "sqrl-0.2": _sqrl(0.2)},
        ),
    )
}  # fmt: skip


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: naming the known ones, if there is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {sorted(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]
