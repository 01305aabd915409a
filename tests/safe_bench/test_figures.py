"""The data of pictures, worked out by hand."""

import numpy as np
import pytest

from safe_bench import figures
from safe_bench.environments import evaluation_env
from safe_bench.protocols import Stage

NAVIGATION = Stage("train", "safe/Navigation2-v0", episodes=1)
SPIDER = Stage("train", "safe/DrunkSpider-v0", episodes=1)


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


class Filtered(ConstantModel):
    """Behind a filter that drives left, away from all obstacles."""

    composite, selector = True, "a filter"

    def __init__(self):
        self.policy = ConstantModel()

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        action, state = super().predict(obs, state, episode_start, deterministic)
        return -action, state


@pytest.mark.parametrize(
    ("changes", "filtered"), [({}, True), ({"composite": False}, False), ({"selector": None}, False)]
)
def test_calibration_is_of_the_policy_that_the_target_follows(monkeypatch, changes, filtered):
    monkeypatch.setattr(figures, "N_CALIBRATION", 1)
    seen = {}
    monkeypatch.setattr(figures, "bin_calibration", lambda p, o: seen.update(outcomes=o) or {})
    model = Filtered()
    vars(model).update(changes)
    assert figures.calibration(model, NAVIGATION, seed=0)["filtered"] == filtered
    assert (seen["outcomes"].max() == 0.0) == filtered


@pytest.mark.parametrize("stage", [NAVIGATION, SPIDER], ids=lambda stage: stage.env_id)
def test_every_second_calibration_episode_starts_anywhere_else(stage):
    def starts():
        env = evaluation_env(stage, None, spread_starts=True)
        env.seed(0)
        return np.concatenate([env.reset() for _ in range(40)])

    own, spread = starts()[::2], starts()[1::2]
    scene = figures.scene_of(stage)
    assert own.std(axis=0).max() < 2.0 < spread.std(axis=0).min()
    assert not scene.inside_obstacle(spread).any() and scene.extent.contains(spread.astype(float)).all()
    assert (spread == starts()[1::2]).all()


def test_a_policy_that_is_safe_from_the_start_is_seen_to_violate_from_elsewhere():
    found = figures.calibration(Filtered(), NAVIGATION, seed=0)  # from behind the block it drives into it
    assert found["spread_starts"]
    assert max(row["observed"] for row in found["bins"]) > 0


def test_the_risk_map_has_its_rows_from_low_to_high_y():
    found = figures.risk_map(ConstantModel(), NAVIGATION)
    risk, (x_min, x_max, y_min, y_max) = np.array(found["risk"]), found["extent"]
    assert risk.shape == (round(60 * (y_max - y_min) / (x_max - x_min)), 60)
    assert risk[0, 0] == pytest.approx(-x_min / 100, abs=1e-3) and (risk[:, -1] == 0).all()
