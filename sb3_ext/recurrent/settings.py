"""Settings of ``RecurrentSACLag`` where its defaults, the paper's for a cluster, would take too long."""

from __future__ import annotations

from typing import Any

SMALL_RECURRENT: dict[str, Any] = {
    "batch_size": 16, "horizon": 30, "train_freq": 32, "gradient_steps": 16, "learning_starts": 10_000,
    "learning_rate": 5e-4, "tau": 0.1, "gamma": 0.98, "gamma_risk": 0.98, "ent_coef": "auto_0.1",
    "multiplier_kwargs": {"space": "linear", "learning_rate": 2e-3}, "max_grad_norm": 10.0, "buffer_size": 50_000,
    "policy_kwargs": {"cnn_channels": (16, 32, 32), "cnn_embedding": 128, "gru_size": 128, "hidden": (128,)},
}  # fmt: skip
"""For a core or two, and eight environments: ``RecurrentSACLag("MultiInputPolicy", env, **SMALL_RECURRENT)``.

Thousands of updates are made, not millions, so that all that adapts is faster: target networks, discounts, multiplier;
and a learned entropy keeps the policy from freezing. Chosen in ``safe/HallwayWallsPoint-v0`` on seeds 101 to 103.
"""
