"""MESA, and the multi-task agent that it is compared with: safety critics that transfer between environments."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from safe_wrappers.transitions import Transitions
from sb3_ext.common.buffers import CostBatch, CostStorage, harmless, sample_union
from sb3_ext.common.meta import Labelled, MetaLearner, check_meta_settings
from sb3_ext.common.risk_sac import Progress
from sb3_ext.recovery_rl import RecoveryRL


class MultiTask(RecoveryRL):
    """Recovery RL whose safety critic learned from many environments at once (MESA's comparison, section 7.1).

    Three phases: ``meta_train(datasets)`` on the data of all training environments together, ``adapt(dataset)`` on a
    little of the test environment, ``learn`` as Recovery RL does, online updates and relabelling included. The data of
    the training environments take no part in the later phases.

    Args:
        policy: as in SB3.
        env: the test environment.
        learning_rate: as in SB3.
        **kwargs: see ``RecoveryRL``.

    Examples:
        >>> import safe_envs
        >>> tasks = safe_envs.TASKS["navigation2"]
        >>> others = enumerate(tasks.training_tasks(3), start=1)
        >>> data = [safe_envs.collect_constraint_data(tasks.env_id, 500, seed=i, **task) for i, task in others]
        >>> test = tasks.test_task()
        >>> model = MultiTask("MlpPolicy", tasks.make(test), gamma_risk=0.65, eps_risk=0.1)
        >>> few = safe_envs.collect_constraint_data(tasks.env_id, 100, **test)
        >>> _ = model.meta_train(data, 10).adapt(few, 10, batch_size=64).learn(20)
    """

    meta_iterations = 0

    def meta_train(
        self,
        datasets: Sequence[Transitions],
        iterations: int = 10_000,
        *,
        recovery_dataset: Transitions | None = None,
        check_env_id: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Phase 1: learn from the data of the training environments.

        Another call goes on (``MESA``: with a fresh outer optimiser). With ``scale_inputs`` or a fresh ``VecNormalize``
        the statistics come from these data, and stay.

        Args:
            datasets: one for each training environment, with violations in each.
            iterations: gradient steps of the safety critic.
            recovery_dataset: the recovery policy learns at its observations (in algorithm 2: the adaptation set);
                None: at those of the training data.
            check_env_id: refuse data that were recorded in an environment of another ID.
            progress: told how far it is.

        Raises:
            TypeError: if the data sets are no list of ``Transitions``.
            ValueError: naming the data set, if one is of another environment, does not fit the spaces, or shows no
                violation; or if ``iterations`` is below 1.
        """
        if iterations < 1:
            raise ValueError(f"iterations must be >= 1, got {iterations}")
        if isinstance(datasets, Transitions):
            raise TypeError("datasets must be a list with the data of each training environment, got one data set")
        if not datasets:
            raise ValueError("meta_train needs the data of at least one training environment, got none")
        datasets = [self._check(data, f"datasets[{i}]", check_env_id) for i, data in enumerate(datasets)]
        if recovery_dataset is not None:
            recovery_dataset = self._check(recovery_dataset, "recovery_dataset", check_env_id, with_violations=False)
        buffers = [self._buffer_of(data) for data in datasets]
        own = None if recovery_dataset is None else self._buffer_of(recovery_dataset)
        if self.scale_inputs or self._vec_normalize_env is not None:  # all data once more: for those who need it
            self._fit_normalisation(Transitions.concatenate(datasets))
        self._metrics = defaultdict(list)
        for done, batch in enumerate(self._meta_steps(buffers, iterations), start=1):
            states = batch if own is None else self._draw([own])
            self._follow_risk(states)
            if progress is not None:
                progress(done, iterations)
        self.meta_iterations += iterations
        self.pretraining_steps += iterations
        return self

    def adapt(
        self,
        dataset: Transitions,
        steps: int = 500,
        *,
        batch_size: int | None = None,
        check_env_id: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Phase 2: adapt the safety critic and the recovery policy to the test environment.

        The data stay part of what the safety critic learns from in ``learn``. Warns where nothing was learned before.

        Args:
            dataset: of the test environment, with violations, at least a batch.
            steps: gradient steps.
            batch_size: transitions a step; None: as in ``learn``.
            check_env_id: refuse data that were recorded in an environment of another ID.
            progress: told how far it is.

        Raises:
            ValueError: if the data are of another environment, do not fit, show no violation, or are less than a batch.
        """
        size = self.batch_size if batch_size is None else batch_size
        self._check(dataset, "the adaptation set", check_env_id)
        if len(dataset) < size:
            raise ValueError(
                f"the adaptation set has {len(dataset)} transitions, fewer than a batch of {size}: "
                f"pass batch_size={len(dataset)} or less, or record more"
            )
        if self.pretraining_steps == 0 and self.num_timesteps == 0:
            warnings.warn(
                f"{type(self).__name__} adapts an untrained safety critic: call meta_train(datasets) or "
                "use_critic(critic) first",
                stacklevel=2,
            )
        return self.pretrain(dataset, steps, batch_size=size, check_env_id=check_env_id, progress=progress)

    def _meta_steps(self, buffers: list[CostStorage], iterations: int) -> Iterator[CostBatch]:
        """Update the safety critic ``iterations`` times; gives a batch that was learned from each time."""
        for _ in range(iterations):
            batch = self._draw(buffers)
            self._metrics["safety/critic_loss"].append(self.safety_critic.update(batch, self._risk_next_actions(batch)))
            yield batch

    def _draw(self, buffers: list[CostStorage]) -> CostBatch:
        return sample_union(buffers, self.batch_size, self._vec_normalize_env, self.positive_fraction)

    def _check(self, dataset: Transitions, name: str, check_env_id: bool, with_violations: bool = True) -> Transitions:
        try:
            dataset = self._checked(dataset, check_env_id)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
        if with_violations and dataset.n_violations == 0:
            raise ValueError(f"{name} {harmless(dataset)}")
        return dataset


class MESA(MultiTask):
    """MESA (Luo et al. 2021; thesis, chapter 6): Recovery RL with a meta-learned safety critic that adapts quickly.

    ``meta_train`` finds weights from which a gradient step on a little data of an environment leads to its risks
    (algorithm 2, phase 1; ``MetaLearner``), ``adapt`` makes such steps for the test environment (phase 2), ``learn`` is
    Recovery RL (phase 3).

    Deviations: phase 3 of the printed algorithm swaps the two actions; the relabelling of Recovery RL is followed. As
    in the released code the safety critic is one network, not two, next actions in phase 1 come from the untrained
    task policy (with ``composite``, filtered), the meta-gradient is clipped at norm 40, and phases 2 and 3 use Adam at
    ``inner_lr``. The target network follows the meta-learned weights (there: a copy of them, moved after the inner
    step). The recovery policy learns at ``inner_lr`` throughout (there: 1e-4 in phase 1).

    Args:
        policy: as in SB3.
        env: the test environment.
        learning_rate: as in SB3, of the task policy and its critics.
        inner_lr: step size of adaptation.
        outer_lr: Adam's rate in phase 1.
        inner_steps: adaptation steps that phase 1 looks ahead.
        tasks_per_step: training environments in a step of phase 1, drawn with replacement.
        learn_inner_lr: learn a step size for every weight (the released code). They matter in phase 1 only.
        risk_kwargs: further arguments of ``SafetyCritic``; ``{"net_arch": (100, 100, 100), "latent_dim": 100}`` is the
            released code's network, whose weights are generated.
        recovery_kwargs: further arguments of ``RecoveryActor``.
        **kwargs: see ``RecoveryRL``.

    Raises:
        ValueError: for rates or numbers out of range.

    Examples:
        >>> import safe_envs
        >>> tasks = safe_envs.TASKS["navigation2"]
        >>> others = enumerate(tasks.training_tasks(3), start=1)
        >>> data = [safe_envs.collect_constraint_data(tasks.env_id, 500, seed=i, **task) for i, task in others]
        >>> test = tasks.test_task()
        >>> model = MESA("MlpPolicy", tasks.make(test), gamma_risk=0.65, eps_risk=0.1)
        >>> few = safe_envs.collect_constraint_data(tasks.env_id, 100, **test)
        >>> _ = model.meta_train(data, 3, recovery_dataset=few).adapt(few, 10, batch_size=64).learn(20)
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 3e-4,
        *,
        inner_lr: float = 1e-3,
        outer_lr: float = 1e-5,
        inner_steps: int = 1,
        tasks_per_step: int = 5,
        learn_inner_lr: bool = False,
        risk_kwargs: dict[str, Any] | None = None,
        recovery_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_meta_settings(inner_lr, outer_lr, inner_steps)
        if tasks_per_step < 1 or tasks_per_step != int(tasks_per_step):
            raise ValueError(f"tasks_per_step must be a whole number >= 1, got {tasks_per_step}")
        self.inner_lr, self.outer_lr, self.inner_steps = inner_lr, outer_lr, inner_steps
        self.tasks_per_step, self.learn_inner_lr = tasks_per_step, learn_inner_lr
        kwargs["risk_kwargs"] = {"n_critics": 1, "learning_rate": inner_lr, **(risk_kwargs or {})}
        kwargs["recovery_kwargs"] = {"learning_rate": inner_lr, **(recovery_kwargs or {})}
        super().__init__(policy, env, learning_rate, **kwargs)

    def _meta_steps(self, buffers: list[CostStorage], iterations: int) -> Iterator[CostBatch]:
        learner = MetaLearner(self.safety_critic, self.inner_lr, self.outer_lr, self.inner_steps, self.learn_inner_lr)
        for _ in range(iterations):
            chosen = np.random.randint(len(buffers), size=self.tasks_per_step)
            batches = [self._draw([buffers[i]]) for i in chosen for _ in ("inner", "outer")]
            labelled = self._labelled(batches)
            loss = learner.update(list(zip(labelled[::2], labelled[1::2], strict=True)))
            self.safety_critic.update_target(self.safety_critic.tau)
            self._metrics["safety/meta_loss"].append(loss)
            yield batches[-1]

    def _labelled(self, batches: list[CostBatch]) -> list[Labelled]:
        together = batches[0].join(*batches[1:])  # of equal size: one pass of the networks for all
        targets = self.safety_critic.targets(together, self._risk_next_actions(together)).split(self.batch_size)
        return [Labelled(b.observations, b.executed_actions, t) for b, t in zip(batches, targets, strict=True)]
