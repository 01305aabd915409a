"""Safe transfer: learn among walls, where harm is cheap, then go where it is not (figures 4, 6, 7 and 8, table 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from safe_bench.protocols.base import Budget, Method, Milestones, Protocol, Published, Stage
from sb3_ext.recurrent.settings import SMALL_RECURRENT

PAPER = "Safe transfer from a low-stakes to a high-stakes hallway, sections 2 to 4, appendices A to D"
STEP_LIMIT, EPISODE_STEPS = 0.01, 1000
COST_LIMIT = STEP_LIMIT * EPISODE_STEPS

# The paper's agent has 2.1 million parameters, batches of 256 sequences, 60 actors; this one is what two cores train.
_SMALL = {**SMALL_RECURRENT, "step_limit": STEP_LIMIT}

# Return and cost from scratch and zero-shot in table 1, as far as its columns can be told apart.
_TABLE_1 = {
    "point-poles": ((1090.0, 0.4), (756.0, 1000.0)), "point-humanoids": ((1040.0, 16.0), (935.0, 5.5)),
    "doggo-poles": ((800.0, 1.8), (877.0, 3.1)), "doggo-humanoids": ((965.0, 2.2), (946.0, 3.9)),
}  # fmt: skip


def _method(label: str, **settings: Any) -> Method:
    return Method(label, "RecurrentSACLag", _SMALL, offline=False, n_envs=8, feedback=True, **settings)


def _with(method: Method, label: str, **kwargs: Any) -> Method:
    return replace(method, label=label, kwargs={**method.kwargs, **kwargs})


def _budgets(env_id: str) -> dict[str, Budget]:
    def budget(steps: int, every: int, rounds: int, evaluate: int, seeds: int) -> Budget:
        """Checkpoints hold the replay, so there are few of them."""
        return Budget(
            (Stage("train", env_id, steps=steps),), eval_episodes=evaluate, seeds=tuple(range(seeds)),
            eval_every=every, eval_rounds=rounds, checkpoint_every=every,
        )  # fmt: skip

    return {
        "quick": budget(20_000, 10_000, 2, 4, 1),
        "short": budget(150_000, 25_000, 10, 20, 3),
        "paper": budget(2_000_000, 100_000, 20, 50, 5),
    }


def _protocol(robot: str, obstacles: str, claim: str, methods: dict[str, Method]) -> Protocol:
    name = f"{robot}-{obstacles}"
    return Protocol(
        name=f"safe-transfer/{name}",
        title=f"Safe transfer: {robot.capitalize()} among {obstacles}",
        paper=PAPER,
        claim=claim,
        subject="transfer" if "transfer" in methods else "constrained",
        measure="regret" if "transfer" in methods else None,
        methods=methods,
        presets=_budgets(f"safe/Hallway{obstacles.capitalize()}{robot.capitalize()}-v0"),
        default_methods=tuple(key for key, method in methods.items() if method.group == "comparison"),
        cost_limit=COST_LIMIT,
        deployed=True,
        published=_published(*_TABLE_1[name]) if name in _TABLE_1 else {},
        milestones=Milestones("success_rate", (0.5, 0.9)),
    )


def _published(scratch: tuple[float, float], zero_shot: tuple[float, float]) -> dict[str, tuple[Published, ...]]:
    def figures(numbers: tuple[float, float], when: str, steps: int | None = None) -> tuple[Published]:
        return (Published(f"table 1, {when}", steps, (numbers[0], None), (numbers[1], None)),)

    return {"constrained": figures(scratch, "from scratch"), "transfer": figures(zero_shot, "zero-shot", 0)}


def _of_robot(robot: str) -> tuple[Protocol, ...]:
    constrained = _method("Constrained, from scratch")
    unconstrained = _with(constrained, "Unconstrained, from scratch", step_limit=None)
    high_stakes = {
        "transfer": _method("Safe transfer, from walls", start=f"safe-transfer/{robot}-walls/constrained"),
        "constrained": constrained,
        "unconstrained": unconstrained,
    }
    low_stakes = {
        "constrained": constrained,
        "unconstrained": unconstrained,
        "no-feedback": replace(
            _with(constrained, "Constrained, without feedback", use_feedback=False), group="ablation"
        ),
    }
    regret = (
        "An agent that learned among walls incurs far less cost here, in all of its training, than one from scratch."
    )
    return (
        _protocol(
            robot,
            "walls",
            f"The constrained agent ends within a cost of {COST_LIMIT:g} per episode, the unconstrained one in the "
            "hundreds; without its previous reward and cost the agent is less safe.",
            low_stakes,
        ),
        _protocol(robot, "poles", regret, high_stakes),
        _protocol(robot, "humanoids", regret, high_stakes),
    )


PROTOCOLS = (*_of_robot("point"), *_of_robot("doggo"))
