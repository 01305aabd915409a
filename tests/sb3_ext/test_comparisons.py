"""The dual agent's comparisons: the safety layer's model, and agents that start from a controller."""

import numpy as np
import pytest
from corridors import (
    HIGH,
    LOW,
    Corridor,
    DictCorridor,
    differing,
    recorded,
    some_observations,
    tensors,
    tiny,
    to_the_right,
    vec,
)
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3

from safe_wrappers import SafetyLayer
from safe_wrappers.info import COST, MissingCostError
from sb3_ext import CPO, DualAgent, LinearCostModel, evaluate_safely, imitate

# ---------------------------------------------------------------------- safety layer


def linear_model(terms=(COST,), **kwargs):
    return LinearCostModel(Corridor.observation_space, spaces.Box(LOW, HIGH), terms, **kwargs)


def test_a_linear_cost_is_recovered_in_environment_units():
    """Two terms, c = x + 0.1 a_1 and c = 0.2 a_2: their coefficients come back, though a_2 is in [0, 10]."""
    rng = np.random.default_rng(0)
    x, actions = rng.uniform(-1, 1, 2000), rng.uniform(LOW, HIGH, (2000, 2))
    obs = np.stack([x, 1.0 - x], axis=1).astype(np.float32)
    costs = np.stack([x + 0.1 * actions[:, 0], 0.2 * actions[:, 1]], axis=1)
    model = linear_model(("cost_a", "cost_b"), learning_rate=1e-2)
    assert model.fit_terms(obs, actions, costs, steps=500) < 1e-2
    offsets, slopes = model(obs[:50])
    assert np.allclose(slopes, [[0.1, 0.0], [0.0, 0.2]], atol=0.04)
    assert np.allclose(offsets, np.stack([x[:50], 0 * x[:50]], axis=1), atol=0.15)


def test_the_layer_keeps_agents_safe_that_learned_with_it_or_without(tmp_path):
    """A model of recorded steps, around plain SAC: far less cost than without."""
    model = linear_model(learning_rate=3e-3)
    model.fit(recorded(3000), steps=500)
    model.save(tmp_path / "model.pt")
    env = SafetyLayer(Corridor(), LinearCostModel.load(tmp_path / "model.pt"), step_limit=0.05)
    free = evaluate_safely(agent_to_the_right(), Corridor(), 5, seed=0)
    learned = SAC("MlpPolicy", env, learning_starts=50, policy_kwargs={"net_arch": [16]}, seed=0).learn(400)
    assert evaluate_safely(learned, env, 5, seed=0).costs.mean() < 0.2 * free.costs.mean()
    held = evaluate_safely(agent_to_the_right(), env, 5, seed=0)
    assert held.costs.mean() < 0.2 * free.costs.mean() and held.intervention_rate > 0.3


def agent_to_the_right():
    class Agent:
        def predict(self, obs, **kwargs):
            return to_the_right(obs), None

    return Agent()


def test_random_steps_need_their_terms():
    assert linear_model().fit_in(Corridor(), n_transitions=200, steps=20, seed=0) < 1.0
    with pytest.raises(MissingCostError, match="cost_wall"):
        linear_model(("cost_wall",)).fit_in(Corridor(), n_transitions=5)
    model = LinearCostModel(DictCorridor.observation_space, spaces.Box(LOW, HIGH))
    model.fit_in(DictCorridor(), n_transitions=50, steps=5, seed=0)
    costless = Corridor(noise=0.0, with_cost=False)
    assert linear_model().fit_in(costless, n_transitions=20, steps=500, seed=0, missing_cost="zero") < 1e-2
    assert model({"position": np.zeros((3, 1)), "gap": np.ones((3, 1))})[1].shape == (3, 1, 2)


def test_steps_of_a_controller_with_observations_of_its_own():
    seen = []

    def controller(position):
        seen.append(position)
        return to_the_right(position)

    linear_model().fit_in(
        Corridor(), n_transitions=10, steps=1, seed=0, controller=controller, controller_observation=lambda o: o[:, :1]
    )
    assert len(seen) == 10 and seen[0].shape == (1, 1)


def test_a_fitted_model_learns_on():
    """Rows of another place do not shift what it has learned."""
    model, rows = linear_model(learning_rate=1e-2), recorded(1000)
    model.fit(rows, steps=300)
    before = model(rows.observations)
    model.fit_terms(rows.observations + 1.0, rows.actions, rows.costs[:, None], steps=0)
    assert all(np.array_equal(*pair) for pair in zip(model(rows.observations), before, strict=True))


def test_bad_input_of_the_model(tmp_path):
    with pytest.raises(ValueError, match="Box of actions"):
        LinearCostModel(Corridor.observation_space, spaces.Discrete(3))
    with pytest.raises(ValueError, match="finite bounds of the actions"):
        LinearCostModel(Corridor.observation_space, spaces.Box(-np.inf, np.inf, (2,)))
    with pytest.raises(ValueError, match="terms must name"):
        linear_model(terms="cost")
    with pytest.raises(ValueError, match="recorded transitions hold the cost only"):
        linear_model(("cost_a",)).fit(recorded())
    (tmp_path / "broken.pt").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"broken\.pt cannot be read"):
        LinearCostModel.load(tmp_path / "broken.pt")


# ---------------------------------------------------------------------- imitation


def brake(obs):
    """Back to the middle, with actions inside their bounds."""
    position = obs["position"] if isinstance(obs, dict) else obs[:, :1]
    return np.concatenate([np.clip(0.5 - 2.0 * position, -2.0, 3.0), 0.0 * position + 3.0], axis=1)


MODELS = {
    "PPO": lambda: PPO("MlpPolicy", vec(2), seed=0),
    "CPO, VecNormalize": lambda: CPO("MlpPolicy", vec(2, normalize=True), cost_limit=1.0, seed=0),
    "SAC": lambda: tiny(SAC),
    "TD3, Dict": lambda: tiny(TD3, vec(2, DictCorridor)),
    "DualAgent": lambda: tiny(DualAgent),
}


def mode_error(model, raw):
    normalizer = model.get_vec_normalize_env()
    seen = raw if normalizer is None else normalizer.normalize_obs(raw)
    return np.abs(model.predict(seen, deterministic=True)[0] - brake(raw)).mean()


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_actor_imitates_and_learns_on(kind):
    model, (obs, _) = MODELS[kind](), some_observations()
    if "Dict" in kind:
        obs = {"position": obs[:, :1], "gap": obs[:, 1:]}
    before, values = mode_error(model, obs), critic_weights(model)
    error = imitate(model, brake, n_transitions=300, steps=400, learning_rate=3e-3, controller_share=0.5, seed=0)
    assert error < 0.02 and mode_error(model, obs) < 0.4 * before
    assert differing(values, critic_weights(model)) == []
    model.learn(40)


def critic_weights(model):
    """What imitation must not touch: critics and deviations."""
    state = model.policy.state_dict()
    return tensors({k: v for k, v in state.items() if "critic" in k or "value" in k or k == "log_std"})


def test_target_actors_follow():
    model = tiny(TD3)
    imitate(model, brake, Corridor(), n_transitions=50, steps=5)
    actor, target = model.actor.state_dict(), model.actor_target.state_dict()
    assert all(np.array_equal(actor[name], target[name]) for name in actor)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"controller": lambda obs: obs * np.nan}, "controller .* must return finite actions"),
        ({"controller": brake, "controller_share": 2.0}, "controller_share must be"),
        ({"controller": None}, "must be an SB3 model or"),
    ],
)
def test_bad_input_of_imitate(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        imitate(tiny(SAC), n_transitions=10, steps=1, **kwargs)


@pytest.mark.parametrize("kind", [Corridor, DictCorridor])
def test_another_environment_shows_its_observations_to_the_statistics(kind):
    model = tiny(DualAgent, vec(kind=kind, normalize=True))
    imitate(model, brake, kind(), n_transitions=200, steps=1, seed=0)
    statistics = model.get_vec_normalize_env().obs_rms
    gap = statistics["gap"].mean if kind is DictCorridor else statistics.mean[1:]
    assert 0.5 < gap[0] < 0.95  # it brakes in the middle; they begin at 0


def test_discrete_actions_are_not_imitated():
    with pytest.raises(ValueError, match="needs a Box"):
        imitate(PPO("MlpPolicy", "CartPole-v1"), brake)
