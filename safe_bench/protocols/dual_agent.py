"""Dual-agent safety correction: the ant that runs too fast (table I, figure 5), and the push (figures 6 and 7)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from safe_bench.protocols.base import Budget, Imitation, LayerFit, Method, Milestones, Protocol, Published, Stage

PAPER = "Zhang, Yan et al., Safety Correction from Baseline: Towards the Risk-aware Policy in Robotics (2022)"
ANT_RISK, PUSH_RISK = 0.05, 0.01
"""Accepted shares of unsafe steps. The paper has 0.05 for both; but a touch costs some three of the 50 steps of a push
here, because contacts at rest are free, and the learned baseline would nearly be safe enough at 0.05."""
ANT_LIMIT, PUSH_LIMIT = ANT_RISK * 500, PUSH_RISK * 50
HER = "dual-agent/push-baseline/her"

# The paper prints none of these. Rate and batches are those of the TD3 whose layers (400, 300) it has (Fujimoto et al.
# 2018), the first random steps those of its authors' later code.
_TD3 = {
    "learning_rate": 1e-3, "learning_starts": 5000, "buffer_size": 500_000, "batch_size": 100, "optimize": "fused",
}  # fmt: skip
_DUAL = {**_TD3, "gamma_risk": 0.9}
_CLONING = Imitation()
GAMMAS = (0.5, 0.7, 0.95, 0.99)

# Table I: return and cost after a million interactions, and at convergence. How many that took is damaged in the text:
# 5e5, 1e7, 1e7, 6e6 against multiples of 1, 20, 20, 20 and 12 leave 1e7 for TRPOLag and 6e6 for SACLag.
_TABLE_1: dict[str, tuple[Published, ...]] = {
    method: tuple(Published(f"table I, {when}", steps, *figures) for when, steps, figures in rows)
    for method, *rows in (
        ("dual-agent", ("converged", 500_000, ((898.20, 12.29), (1.77, 0.22)))),
        ("ppo-lag", ("early", 1_000_000, ((571.23, 11.03), (3.33, 0.83))),
         ("converged", 10_000_000, ((944.27, 12.77), (2.71, 0.51)))),
        ("trpo-lag", ("early", 1_000_000, ((546.45, 12.55), (3.49, 0.54))),
         ("converged", 10_000_000, ((917.63, 11.27), (2.15, 0.57)))),
        ("cpo", ("early", 1_000_000, ((550.43, 8.86), (3.63, 0.86))),
         ("converged", 10_000_000, ((915.36, 10.23), (2.65, 0.49)))),
        ("sac-lag", ("early", 1_000_000, ((329.87, 27.65), (2.88, 0.26))),
         ("converged", 6_000_000, ((450.24, 22.59), (2.12, 0.20)))),
    )
}  # fmt: skip
_FIGURE_7 = {
    "dual-agent-her": "about 80 %", "safety-layer-her": "about 50 %", "bc-cpo-her": "below 30 %",
    "bc-safety-layer-her": "below 30 %", "cpo": "none",
}  # fmt: skip


def _method(label: str, algorithm: str | None, **settings: Any) -> Method:
    return Method(label, algorithm, offline=False, **settings)


def _on_policy(label: str, algorithm: str, cost_limit: float, policy_kwargs: Any = None, **settings: Any) -> Method:
    kwargs = {"cost_limit": cost_limit} | ({"policy_kwargs": policy_kwargs} if policy_kwargs else {})
    return _method(label, algorithm, kwargs=kwargs, normalize=True, **settings)


def _gamma_study(name: str, method: Method, horizon: int) -> dict[str, Method]:
    """Other discounts of Q_I, and equation 9, at a discount where it differs much from equation 7."""
    study = {f"{name}-{gamma:g}": method.ablation(f"gamma {gamma:g}", gamma_risk=gamma) for gamma in GAMMAS}
    equation_9 = method.ablation(f"gamma 0.99, horizon {horizon}", gamma_risk=0.99, horizon=horizon, safe_ends=False)
    return {**study, f"{name}-0.99-horizon": equation_9}


def _budget(env_id: str, steps: int, every: int, rounds: int, evaluate: int, seeds: int, **kwargs: Any) -> Budget:
    """Checkpoints where the evaluations are: these environments cannot be copied, and begin a new episode there."""
    return Budget(
        (Stage("train", env_id, kwargs, steps=steps),), eval_episodes=evaluate, seeds=tuple(range(seeds)),
        eval_every=every, eval_rounds=rounds, checkpoint_every=min(every, 12_500),
    )  # fmt: skip


def _ant_run() -> Protocol:
    # A fall costs nothing by itself: what follows is as safe as its own step (algorithm 1 bootstraps across it).
    dual = _method("Dual agent", "DualAgent", kwargs={**_DUAL, "eps_risk": ANT_RISK, "safe_ends": True})
    sac = {
        "cost_limit": ANT_LIMIT, "learning_starts": 5000, "buffer_size": 500_000, "optimize": "fused",
        "multiplier_kwargs": {"min_value": 1e-3},  # it costs nothing until it runs: without, too low to come back from
    }  # fmt: skip
    methods = {
        "dual-agent": dual,
        "ppo-lag": _on_policy("PPOLag", "PPOLag", ANT_LIMIT),
        "trpo-lag": _on_policy("TRPOLag", "TRPOLag", ANT_LIMIT),
        "cpo": _on_policy("CPO", "CPO", ANT_LIMIT),
        "sac-lag": _method("SACLag", "SACLag", kwargs=sac),
        **_gamma_study("dual-agent", dual, horizon=500),
    }
    env_id = "safe/AntRun-v0"
    return Protocol(
        name="dual-agent/ant-run",
        title="Dual agent: ant run",
        paper=PAPER,
        claim=f"The safe agent learns to run within a cost of {ANT_LIMIT:g} per episode, with fewer steps than the "
        "others; its baseline learns beside it, and violates at nearly every step.",
        subject="dual-agent",
        measure=None,
        methods=methods,
        presets={
            "quick": _budget(env_id, 10_000, 5_000, 2, 3, 1),
            "short": _budget(env_id, 100_000, 12_500, 5, 20, 3),
            "paper": _budget(env_id, 500_000, 25_000, 5, 20, 3),
        },
        default_methods=tuple(key for key, method in methods.items() if method.group == "comparison"),
        cost_limit=ANT_LIMIT,
        deployed=True,
        published=_TABLE_1,
        milestones=Milestones("return", (500.0, 600.0, 700.0, 800.0)),  # standing still has 366 to 456
    )


def _panda_push() -> Protocol:
    # Its baseline can push already: few steps are spent on random actions. Centimetres decide: observations are
    # standardised, and batches larger, so that imitation is precise.
    correction = {**_DUAL, "eps_risk": PUSH_RISK, "learning_starts": 500, "batch_size": 256}
    behind_layer = {**_TD3, "learning_starts": 100, "critic_warmup": 10_000}
    corrected = {
        "dual-agent": _method("Dual agent", "DualAgent", kwargs=correction, normalize=True),
        # PPO's first deviation of 1 would bury what was cloned in noise: of half-random pushes 2 % succeed.
        "bc-cpo": _on_policy(
            "BC + CPO", "CPO", PUSH_LIMIT, policy_kwargs={"log_std_init": -1.5}, imitation=_CLONING
        ),
        # Its critics learn alone at first: what untrained ones say would undo the cloning within a thousand updates.
        "bc-safety-layer": _method(
            "BC + TD3 + safety layer", "SafeTD3", kwargs=behind_layer, action_noise=0.1, normalize=True,
            imitation=_CLONING, safety_layer=LayerFit(),
        ),
        "safety-layer": _method("Safety layer", None, safety_layer=LayerFit()),
    }  # fmt: skip
    methods = {
        name + suffix: replace(method, label=f"{method.label}, {which} baseline", controller=controller)
        for suffix, which, controller in (
            ("", "scripted", "scripted"),
            ("-drag", "dragging", "scripted-drag"),
            ("-her", "learned", HER),
        )
        for name, method in corrected.items()
    }
    # Without the clone and with a faster lambda the agent stood still after 12,500 steps (tuning seed 100).
    methods["dual-agent"] = replace(
        methods["dual-agent"], imitation=_CLONING, kwargs={**correction, "multiplier_learning_rate": 1e-4}
    )
    methods["dual-agent-drag"] = replace(
        methods["dual-agent-drag"], imitation=_CLONING, kwargs={**correction, "gamma_risk": 0.8}
    )
    methods["cpo"] = _on_policy("CPO", "CPO", PUSH_LIMIT)
    methods |= _gamma_study("dual-agent-her", methods["dual-agent-her"], horizon=50)
    env_id = "safe/PandaPush-v0"
    # A cube that lies against the obstacle is no collision: nothing that an agent does then could meet the limit.
    collisions = {"resting_contact": False}
    return Protocol(
        name="dual-agent/panda-push",
        title="Dual agent: push past an obstacle",
        paper=PAPER,
        claim="The corrected agent pushes the cube to the target without a touch in about 80 % of the episodes; with a "
        "safety layer about 50 %, after behaviour cloning below 30 %, and from scratch none.",
        subject="dual-agent",
        measure=None,
        methods=methods,
        presets={
            "quick": _budget(env_id, 5_000, 2_500, 3, 5, 1, **collisions),
            "short": _budget(env_id, 100_000, 12_500, 20, 50, 3, **collisions),
            "paper": _budget(env_id, 250_000, 12_500, 20, 100, 3, **collisions),
        },
        default_methods=tuple(
            key for key, method in methods.items() if method.group == "comparison" and method.controller != HER
        ),
        cost_limit=PUSH_LIMIT,
        deployed=True,
        published={name: (Published("figure 7", success=share),) for name, share in _FIGURE_7.items()},
        milestones=Milestones("success_rate", (0.2, 0.5, 0.8)),
    )


def _push_baseline() -> Protocol:
    """The unsafe agent that the push corrects: three layers of 256; rate, discount, tau and buffer are the RL Zoo's."""
    her = {
        "learning_rate": 1e-3, "gamma": 0.95, "tau": 0.05, "buffer_size": 1_000_000, "learning_starts": 1000,
        "policy_kwargs": {"net_arch": [256, 256, 256]}, "optimize": "fused",
    }  # fmt: skip
    plain = _method("SAC + HER", "SafeSAC", kwargs=her)
    env_id = "safe/PandaPushGoal-v0"
    return Protocol(
        name="dual-agent/push-baseline",
        title="Dual agent: a baseline for the push, learned without the obstacle",
        paper=PAPER,
        claim="Hindsight experience replay learns the push, if nothing stands in the way.",
        subject="her",
        measure=None,
        methods={
            "her": replace(plain, label="SAC + HER, 20,000 scripted steps", controller="scripted",
                           demonstrations=20_000),
            "her-alone": plain,
        },
        presets={
            "quick": _budget(env_id, 4_000, 2_000, 3, 5, 1, obstacle=False),
            "short": _budget(env_id, 75_000, 12_500, 20, 100, 1, obstacle=False),
            "paper": _budget(env_id, 500_000, 12_500, 20, 100, 1, obstacle=False),
        },
        default_methods=("her-alone", "her"),
        cost_limit=PUSH_LIMIT,
        deployed=True,
    )  # fmt: skip


PROTOCOLS = (_ant_run(), _push_baseline(), _panda_push())
