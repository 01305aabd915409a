"""What all off-policy algorithms share: the step at which training stops, and the logs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext.common.safe_algorithm import SafeAlgorithm


class CostOffPolicy(SafeAlgorithm, OffPolicyAlgorithm):
    """Mixin before an off-policy base, or a base itself."""

    buffers: ClassVar[tuple[str, ...]] = ("replay_buffer",)
    transient: ClassVar[tuple[str, ...]] = (*SafeAlgorithm.transient, "_metrics")

    _metrics: defaultdict[str, list[float]]
    """Values of the gradient steps of one ``train``, by the key that their mean is logged under."""

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        """SB3's; but the step at which a callback stops the training, which SB3 forgets, is counted and stored.

        The next ``learn`` would begin with a transition that never was.
        """
        rollout = super().collect_rollouts(env, callback, *args, **kwargs)
        if not rollout.continue_training:
            step = callback.locals
            self._update_info_buffer(step["infos"], step["dones"])
            names = ("replay_buffer", "buffer_actions", "new_obs", "rewards", "dones", "infos")
            self._store_transition(*(step[name] for name in names))
        return rollout

    def dump_logs(self) -> None:
        """Write SB3's logs and the costs."""
        self._record_costs()
        super().dump_logs()

    def _log_metrics(self) -> None:
        """Record the means over the gradient steps of one ``train``."""
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for key, values in self._metrics.items():
            self.logger.record(key, float(np.mean(values)))
