"""Masks and rejection sampling against known answers, and with MaskablePPO."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from wrapper_toys import Corridor, play, risk

from safe_wrappers import ActionMask, allowed_actions, sample_safely
from safe_wrappers.info import VIOLATION


def discrete_risk(obs, action):
    return (obs[:, 0] + 2.0 * action - 1.0 > 5.0).astype(float)


def test_mask_of_a_discrete_environment_follows_the_observation():
    env = ActionMask(Corridor(discrete=True), discrete_risk, 0.5)
    env.reset(seed=0)
    masks = []
    for _ in range(6):
        masks.append(env.action_masks().tolist())
        env.step(np.flatnonzero(env.action_masks())[-1])
    assert masks == [[True, True]] * 5 + [[True, False]]


def test_box_as_a_grid():
    class Plane(Corridor):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 4.0]), dtype=np.float64)

    env = ActionMask(Plane(), lambda obs, action: np.zeros(len(action)), 0.5, bins=[3, 2])
    assert env.action_space == spaces.Discrete(6)
    assert env.candidates.tolist() == [[-1, 0], [-1, 4], [0, 0], [0, 4], [1, 0], [1, 4]]


def test_box_as_given_candidates_executes_them():
    env = ActionMask(Corridor(), risk, 0.5, actions=[[-1.0], [0.25], [1.0]])
    assert [step[0].item() for step in play(env, [1, 1, 0])] == [0.25, 0.5, -0.5]
    env.reset()
    for _ in range(5):
        env.step(2)
    assert env.action_masks().tolist() == [True, False, False]


def test_a_subset_of_discrete_actions_that_start_elsewhere():
    class Shifted(Corridor):
        def __init__(self):
            super().__init__(discrete=True)
            self.action_space = spaces.Discrete(2, start=1)

    assert ActionMask(Shifted(), discrete_risk, 0.5).candidates.tolist() == [1, 2]
    env = ActionMask(Shifted(), discrete_risk, 0.5, actions=[2])
    assert env.action_space == spaces.Discrete(1)


def test_the_least_risky_action_where_none_is_safe():
    env = ActionMask(Corridor(), lambda obs, action: 0.7 + action[:, 0] / 10, 0.1, bins=5)
    env.reset()
    assert env.action_masks().tolist() == [True, False, False, False, False]


@given(hnp.arrays(float, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(0, 1)), st.floats(0, 1))
def test_masks_never_forbid_everything(risks, eps_risk):
    mask = allowed_actions(risks, eps_risk)
    assert mask.any(axis=1).all()
    safe = risks <= eps_risk
    assert (mask == safe)[safe.any(axis=1)].all()
    fallback = ~safe.any(axis=1)
    assert np.array_equal(mask[fallback].argmax(axis=1), risks[fallback].argmin(axis=1))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({}, "pass candidate actions"),
        ({"bins": 3, "actions": [[0.0]]}, "either actions or bins"),
        ({"bins": 1}, "bins must be one integer >= 2, or 1 of them, got 1"),
        ({"bins": 2.5}, "bins must be"),
        ({"bins": [2, 2]}, "bins must be"),
        ({"actions": [0.0, 1.0]}, r"must be \[K, ...\]"),
        ({"actions": [[2.0]]}, "outside the action space"),
        ({"bins": 3, "eps_risk": 2.0}, "eps_risk must be in"),
    ],
)
def test_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ActionMask(Corridor(), **{"risk": risk, "eps_risk": 0.5, **kwargs})


def test_candidates_of_discrete_spaces_are_whole_numbers():
    with pytest.raises(ValueError, match="must be integers"):
        ActionMask(Corridor(discrete=True), risk, 0.5, actions=[0.9, 1.0])


def test_spaces_that_cannot_be_masked():
    with pytest.raises(ValueError, match="discrete already"):
        ActionMask(Corridor(discrete=True), discrete_risk, 0.5, bins=3)
    env = Corridor()
    env.action_space = spaces.Box(-np.inf, np.inf, (1,))
    with pytest.raises(ValueError, match="bounded Box"):
        ActionMask(env, risk, 0.5, bins=3)
    env.action_space = spaces.MultiBinary(2)
    with pytest.raises(TypeError, match="Discrete or Box"):
        ActionMask(env, risk, 0.5)


def test_order_and_actions_of_steps():
    env = ActionMask(Corridor(), risk, 0.5, bins=3)
    with pytest.raises(gym.error.ResetNeeded):
        env.action_masks()
    env.reset()
    with pytest.raises(ValueError, match="expected an action in Discrete"):
        env.step(3)


@pytest.mark.parametrize("discrete", [True, False])
def test_maskable_ppo_never_leaves_the_corridor(discrete):
    sb3_contrib = pytest.importorskip("sb3_contrib")
    violations = []

    class Watch(gym.Wrapper):
        def step(self, action):
            step = self.env.step(action)
            violations.append(step[-1][VIOLATION])
            return step

    corridor = Watch(gym.wrappers.TimeLimit(Corridor(discrete=discrete), 32))
    exact_risk, bins = (discrete_risk, None) if discrete else (risk, 3)
    model = sb3_contrib.MaskablePPO(
        "MlpPolicy", ActionMask(corridor, exact_risk, 0.5, bins=bins), n_steps=64, batch_size=32, n_epochs=1,
        seed=0, device="cpu", policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    model.learn(128)
    assert len(violations) == 128 and not any(violations)


class UniformPolicy:
    """Actions uniform on [-1, 1], whatever the observation."""

    def __init__(self):
        self.rng, self.batch = np.random.default_rng(0), None

    def predict(self, observation, deterministic=True):
        assert not deterministic
        self.batch = observation
        n = len(observation["x"]) if isinstance(observation, dict) else len(observation)
        return self.rng.uniform(-1.0, 1.0, (n, 1)), None


def test_safe_samples_follow_the_policy_given_that_it_is_safe():
    """Uniform on [-1, 1] given |a| <= 0.5 is uniform on [-0.5, 0.5]: mean 0, variance 1/12, none outside."""
    policy, rng = UniformPolicy(), np.random.default_rng(1)
    samples = [sample_safely(policy, np.zeros(2), lambda obs, a: abs(a[:, 0]), 0.5, n=20, rng=rng) for _ in range(2000)]
    actions = np.array([sample.action.item() for sample in samples])
    assert all(sample.accepted for sample in samples) and np.abs(actions).max() <= 0.5
    # Standard errors: sqrt(1/12/2000) = 0.0065 for the mean, sqrt(1/180/2000) = 0.0017 for the variance.
    assert abs(actions.mean()) < 4 * 0.0065 and abs(actions.var() - 1 / 12) < 4 * 0.0017


def test_least_risky_sample_where_none_is_safe():
    policy = UniformPolicy()
    sample = sample_safely(policy, {"x": np.array([3.0, 4.0])}, lambda obs, a: 2.0 + a[:, 0], 0.5, n=50)
    assert not sample.accepted and sample.risk == 2.0 + sample.action.item() < 1.2
    assert policy.batch["x"].shape == (50, 2) and (policy.batch["x"] == [3.0, 4.0]).all()


def test_sampling_errors():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        sample_safely(UniformPolicy(), np.zeros(1), risk, 0.5, n=0)
    with pytest.raises(ValueError, match="eps_risk"):
        sample_safely(UniformPolicy(), np.zeros(1), risk, 5.0)
    assert sample_safely(UniformPolicy(), np.zeros(1), risk, 5.0, kind="return").accepted

    class Deaf(UniformPolicy):
        def predict(self, observation, deterministic=True):
            return np.zeros((1, 1)), None

    with pytest.raises(ValueError, match="expected 100 actions"):
        sample_safely(Deaf(), np.zeros(1), risk, 0.5)


def test_sampling_from_an_sb3_policy():
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.PPO("MlpPolicy", Corridor(), n_steps=8, batch_size=8, seed=0, device="cpu")
    sample = sample_safely(model, np.array([4.5], np.float32), risk, 0.5, n=64)
    assert sample.accepted and sample.action.shape == (1,) and sample.action.item() <= 0.5
