"""The data of pictures, worked out by hand."""

import numpy as np
import pytest

from safe_bench import figures
from safe_bench.protocols import Stage

NAVIGATION = Stage("train", "safe/Navigation2-v0", episodes=1)


class ConstantModel:
    """Drives right at full speed; its risk is the distance that is left to x = 0, scaled."""

    gamma_risk = 0.5

    def __init__(self):
        self.policy = self

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        obs = np.asarray(obs)
        action = np.zeros_like(obs)
        action[..., 0] = 1.0
        return action, state

    def get_vec_normalize_env(self):
        return None

    def risk(self, obs, action):
        return np.clip(-np.asarray(obs)[:, 0] / 100, 0, 1)


def test_calibration_bins_hold_means_and_the_error_is_weighted_by_counts():
    predictions = np.array([0.05, 0.15, 0.17, 1.0])
    outcomes = np.array([0.0, 1.0, 0.0, 1.0])
    found = figures.bin_calibration(predictions, outcomes)
    assert found["bins"] == [
        {"n": 1, "predicted": 0.05, "observed": 0.0},
        {"n": 2, "predicted": 0.16, "observed": 0.5},
        {"n": 1, "predicted": 1.0, "observed": 1.0},
    ]
    assert found["expected_calibration_error"] == pytest.approx((1 * 0.05 + 2 * 0.34 + 0) / 4, abs=1e-4)


def test_the_outcome_of_a_crash_is_discounted_from_its_end(monkeypatch):
    monkeypatch.setattr(figures, "N_CALIBRATION", 1)
    seen = {}
    monkeypatch.setattr(figures, "bin_calibration", lambda p, o: seen.update(outcomes=o) or {})
    figures.calibration(ConstantModel(), NAVIGATION, seed=0)
    assert seen["outcomes"][-3:].tolist() == [0.25, 0.5, 1.0]


def test_the_risk_map_has_its_rows_from_low_to_high_y():
    found = figures.risk_map(ConstantModel(), NAVIGATION)
    risk, (x_min, x_max, y_min, y_max) = np.array(found["risk"]), found["extent"]
    assert risk.shape == (round(60 * (y_max - y_min) / (x_max - x_min)), 60)
    assert risk[0, 0] == pytest.approx(-x_min / 100, abs=1e-3) and (risk[:, -1] == 0).all()
