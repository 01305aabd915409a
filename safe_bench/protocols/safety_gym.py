"""Safety-Gymnasium's tasks, next to the figures that OmniSafe published for them."""

from __future__ import annotations

from collections.abc import Mapping

from safe_bench.protocols.base import Budget, Method, Protocol, Published, Stage

PAPER = "Ji et al., Safety-Gymnasium (2023); Ji et al., OmniSafe (2023): published figures"
COST_LIMIT = 25.0
Figures = tuple[float, float, float, float]
"""Mean and deviation of the return, mean and deviation of the cost."""


def _methods() -> dict[str, Method]:
    """SB3's and our defaults; on-policy, observations and rewards are standardised, as the RL Zoo does for PPO."""

    def on_policy(label: str, algorithm: str, cost_limit: float = COST_LIMIT) -> Method:
        return Method(label, algorithm, {"cost_limit": cost_limit}, offline=False, normalize=True)

    return {
        "ppo": on_policy("PPO", "PPOLag", cost_limit=1e9),  # a limit that is never reached: SB3's PPO, bit for bit
        "ppo-lag": on_policy("PPOLag", "PPOLag"),
        "trpo-lag": on_policy("TRPOLag", "TRPOLag"),
        "cpo": on_policy("CPO", "CPO"),
        "sac-lag": Method(
            "SACLag", "SACLag", {"cost_limit": COST_LIMIT, "learning_starts": 10_000, "optimize": "fused"},
            offline=False,
        ),
    }  # fmt: skip


def _protocol(name: str, task: str, title: str, on_policy: Mapping[str, Figures], off_policy: Figures) -> Protocol:
    def budget(steps: int, evaluate: int, seeds: int) -> Budget:
        stage = Stage("train", f"safe_wrappers.safety_gym:{task}", steps=steps)
        return Budget((stage,), eval_episodes=evaluate, seeds=tuple(range(seeds)))

    methods = _methods()
    return Protocol(
        name=f"safety-gym/{name}",
        title=f"Safety-Gymnasium: {title}",
        paper=PAPER,
        claim=f"The constrained methods end within a cost of {COST_LIMIT:g} per episode; PPO does not.",
        subject="ppo-lag",
        measure=None,
        methods=methods,
        presets={
            "quick": budget(20_000, 5, 1),
            "short": budget(150_000, 20, 2),
            "million": budget(1_000_000, 20, 3),
            "paper": budget(10_000_000, 50, 5),
        },
        default_methods=tuple(methods),
        cost_limit=COST_LIMIT,
        published={name: _omnisafe(10_000_000, figures) for name, figures in on_policy.items()}
        | {"sac-lag": _omnisafe(1_000_000 if "velocity" in name else 3_000_000, off_policy)},
    )


def _omnisafe(steps: int, figures: Figures) -> tuple[Published]:
    return (Published("OmniSafe", steps, figures[:2], figures[2:]),)


PROTOCOLS = (
    _protocol(
        "half-cheetah-velocity", "SafetyHalfCheetahVelocityGymnasium-v1", "HalfCheetah with a speed limit",
        {
            "ppo": (6921.83, 1721.79, 919.2, 173.08),
            "ppo-lag": (2946.15, 306.35, 3.44, 4.77),
            "trpo-lag": (2884.68, 77.47, 9.04, 11.83),
            "cpo": (2786.48, 173.45, 4.70, 6.72),
        },
        (2833.72, 3.62, 0.0, 0.0),
    ),
    _protocol(
        "point-goal1", "SafetyPointGoal1Gymnasium-v0", "Point to goals between hazards",
        {
            "ppo": (25.44, 5.43, 55.72, 35.55),
            "ppo-lag": (12.96, 6.95, 25.80, 34.99),
            "trpo-lag": (18.51, 3.83, 22.98, 8.45),
            "cpo": (20.46, 1.38, 28.84, 7.76),
        },
        (21.45, 6.97, 19.17, 9.72),
    ),
    _protocol(
        "ant-velocity", "SafetyAntVelocityGymnasium-v1", "Ant with a speed limit",
        {
            "ppo": (5977.73, 885.65, 958.13, 134.5),
            "ppo-lag": (3261.87, 80.0, 12.05, 6.57),
            "trpo-lag": (3041.89, 180.77, 19.52, 20.21),
            "cpo": (3098.54, 78.90, 14.12, 3.41),
        },
        (1897.32, 1213.74, 5.73, 7.83),
    ),
)  # fmt: skip
