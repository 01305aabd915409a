"""What an experiment is made of: environment, phases, methods, budgets, claim."""

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


Source = Literal["scripted", "networks", "replay"]


@dataclass(frozen=True)
class Transfer:
    """What is learned from other environments before the first stage, which is then in the family's test environment.

    Attributes:
        family: of environments, a name in ``safe_envs.TASKS``; a seed draws its own training and test environments.
        training_tasks: training environments.
        training_transitions: requested data of each of them.
        iterations: of ``meta_train`` on these data.
        adaptation_updates: of ``adapt`` on the offline data of the test environment.
        batch_size: of these, and of the pre-training of methods that know the test environment only.
        source: scripted rollouts; episodes of random networks, each with weights of its own; or what SAC does while it
            learns, one data set of each training environment for all seeds (those of the test environment are then
            random networks' too). In the latter two violations do not end an episode.
        episode_length: of the random networks' episodes; None: the environment's.
    """

    family: str
    training_tasks: int
    training_transitions: int
    iterations: int
    adaptation_updates: int
    batch_size: int
    source: Source = "scripted"
    episode_length: int | None = None


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Attributes:
        stages: what is learned, in order; the last one is what reports are about.
        offline_transitions: requested size of the offline constraint data (0: none are used).
        pretrain_updates: gradient steps of the safety critic on them.
        eval_episodes: evaluation episodes, each of deterministic and stochastic.
        seeds: default seeds.
        eval_every: evaluate after so many steps of learning too, with ``eval_rounds`` deterministic episodes.
        eval_rounds: see there.
        checkpoint_every: steps; None: the runner's own. Environments that cannot be copied start a new episode there.
        transfer: what comes before, in other environments; the offline data are then of the test environment.
    """

    stages: tuple[Stage, ...]
    offline_transitions: int = 0
    pretrain_updates: int = 0
    eval_episodes: int = 50
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    eval_every: int | None = None
    eval_rounds: int | None = None
    checkpoint_every: int | None = None
    transfer: Transfer | None = None

    @property
    def amount(self) -> str:
        """How long a run learns, in words."""
        parts = [f"{s.episodes:,} episodes" if s.steps is None else f"{s.steps:,} steps" for s in self.stages]
        return " + ".join(parts)


@dataclass(frozen=True)
class Imitation:
    """How a method's actor is fitted to its controller before it learns (``sb3_ext.imitate``).

    Attributes:
        steps: of the environment, in which the observations are gathered.
        updates: gradient steps.
        controller_share: of these steps; the untrained agent makes the others, so that the controller is seen to
            recover.
    """

    steps: int = 20_000
    updates: int = 20_000
    controller_share: float = 0.8


@dataclass(frozen=True)
class LayerFit:
    """How a method's safety layer is fitted before it learns.

    Attributes:
        steps: of the environment, half of them random and half the controller's: the costs' slopes need different
            actions.
        updates: gradient steps.
        limit: of the cost of one step that the layer predicts, as the dual-agent paper's authors set it.
    """

    steps: int = 20_000
    updates: int = 5_000
    limit: float = 0.1


@dataclass(frozen=True)
class Method:
    """An algorithm and its hyper-parameters.

    Attributes:
        label: name in tables and plots.
        algorithm: name of the class in ``sb3_ext``; None: nothing is learned, the controller acts.
        kwargs: its arguments. Rates are to be constant: a run learns in parts, and schedules begin anew in each.
        offline: pre-train on the offline data.
        reward_penalty: subtract this from the reward per unit of cost (0: not).
        group: ``"comparison"`` or ``"ablation"``.
        normalize: learn on observations that ``VecNormalize`` standardises; None: not.
        controller: name of a fixed policy (see ``agents.find_controller``), for the next three; the baseline of
            ``DualAgent``.
        imitation: of the controller before the method learns.
        safety_layer: corrects its actions, in training and after.
        demonstrations: steps of the controller that the replay buffer holds from the start.
        adaptation_share: of a transfer's data of the test environment, the first ones; None: all.
        start: ``"<protocol>/<method>"``: begin with the parameters that were learned there, with the same seed and
            preset.
        n_envs: environments that it learns in side by side; None: one.
        feedback: show the agent its previous reward and cost (``PreviousFeedback``).
        action_noise: deviation of Gaussian noise on its scaled actions in training; None: the algorithm's own.
    """

    label: str
    algorithm: str | None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    offline: bool = True
    reward_penalty: float = 0.0
    group: Literal["comparison", "ablation"] = "comparison"
    normalize: Literal[True] | None = None
    controller: str | None = None
    imitation: Imitation | None = None
    safety_layer: LayerFit | None = None
    demonstrations: int | None = None
    adaptation_share: float | None = None
    start: str | None = None
    n_envs: int | None = None
    feedback: Literal[True] | None = None
    action_noise: float | None = None

    def ablation(self, what: str, **kwargs: Any) -> Method:
        """The same method with other arguments, and what they are in its label."""
        return replace(self, label=f"{self.label}, {what}", kwargs={**self.kwargs, **kwargs}, group="ablation")

    @property
    def prior_steps(self) -> int:
        """Steps of the environment before the method learns; without those of a trained controller."""
        prepared = [part.steps for part in (self.imitation, self.safety_layer) if part is not None]
        return sum(prepared) + (self.demonstrations or 0)


@dataclass(frozen=True)
class Published:
    """What somebody else printed for a method; None: not given.

    Attributes:
        source: who, and where it has to be told, in which experiment.
        steps: after so many; 0: before learning here.
        episode_return: mean and deviation over seeds.
        cost: the same of an episode's cost.
        success: rate of successes, in the words of the source.
    """

    source: str
    steps: int | None = None
    episode_return: tuple[float, float | None] | None = None
    cost: tuple[float, float | None] | None = None
    success: str | None = None


@dataclass(frozen=True)
class Milestones:
    """What the evaluations while learning are to reach: how many interactions does that need?

    Attributes:
        what: of an evaluation.
        values: at least so much, within the cost limit.
    """

    what: Literal["return", "success_rate"]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Protocol:
    """One experiment of one paper.

    Attributes:
        name: what the command line calls it.
        title: headline of the report.
        paper: source.
        claim: what the paper claims, to be held against the results.
        subject: the method that the claim is about.
        measure: what the claim compares: the ratio of successes to violations, the violation rate of the training
            episodes, or by what factor the number of violations or the cost of all training (the regret) differs; None:
            the ``cost_limit`` alone, or something that the tables do not hold (a path, say).
        compare_returns: whether the claim is also about final returns ("at equal return").
        methods: by name.
        presets: budgets by name.
        default_methods: run if none are named.
        cost_limit: of an episode's undiscounted cost. With one, reports are about return and cost, without one about
            successes and violations.
        deployed: with a ``cost_limit``: judge the trained agents by their evaluation, because the episodes of training
            are not theirs alone.
        published: figures to show beside ours, by method.
        milestones: the interactions until them are counted; None: of none.
    """

    name: str
    title: str
    paper: str
    claim: str
    subject: str
    measure: Literal["ratio", "violation-rate", "violations", "regret"] | None
    methods: Mapping[str, Method]
    presets: Mapping[str, Budget]
    default_methods: tuple[str, ...]
    cost_limit: float | None = None
    deployed: bool = False
    published: Mapping[str, tuple[Published, ...]] = field(default_factory=dict)
    milestones: Milestones | None = None
    compare_returns: bool = False

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
    """All that is set for one run, as plain data; settings that are None are left out.

    What else decides its outcome is code (ranges of ``TASKS``, collectors): the summary names the commit.
    """
    budget = {key: value for key, value in asdict(protocol.budget(preset)).items() if key != "seeds"}
    return {
        "protocol": protocol.name,
        "preset": preset,
        "method": method,
        "seed": seed,
        "definition": _stated(asdict(protocol.method(method))),
        "budget": _stated(budget),
    }


def _stated(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in settings.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
