"""The dual agent: values worked out by hand, every kind of baseline, files, an unsafe baseline that is corrected."""

import threading
import warnings

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import (
    HIGH,
    LOW,
    QUIET,
    Corridor,
    DictCorridor,
    assert_same_weights,
    noise,
    some_observations,
    tiny,
    to_the_right,
    vec,
)
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.logger import configure

from safe_wrappers.info import MissingCostError
from sb3_ext import DualAgent, LinearCostModel, RecoveryRL, SafeTD3, evaluate_safely, imitate, safe_steps
from sb3_ext.common.buffers import CostBatch
from sb3_ext.common.controllers import Controller

# ---------------------------------------------------------------------- values


def test_required_values_are_the_papers_sums():
    assert safe_steps(0.05, 0.9) == pytest.approx(9.5)  # equation 7
    for gamma, horizon, printed in ((0.5, 500, 1.8962), (0.9, 50, 7.7988), (0.99, 500, 76.314)):
        mean = np.mean([np.sum(gamma ** np.arange(horizon - k)) for k in range(horizon)])  # equation 5
        assert safe_steps(0.05, gamma, horizon) == pytest.approx(0.95 * mean) == pytest.approx(printed, abs=5e-4)


def chain(n=300, **last):
    """s0 -> s1 -> s2 -> s2; the second step costs 3, the others nothing; actions do not matter."""
    state = th.arange(n) % 3
    eye, zeros = th.eye(3), th.zeros(n, 1)
    costs = 3.0 * (state == 1).float().unsqueeze(1)
    flags = {name: (state == 2).float().unsqueeze(1) for name in last}
    actions = th.rand(n, 1) * 2 - 1
    batch = CostBatch(
        eye[state], actions, eye[(state + 1).clamp(max=2)], zeros, zeros, None, costs, costs, actions, zeros
    )
    return batch._replace(**flags)


CHAINS = {
    "equation 7, through time-outs": ({}, {"timeouts": 1}, [1.5, 1.0, 2.0]),
    "equation 9, to the time-out": ({"horizon": 3}, {"timeouts": 1}, [1.25, 0.5, 1.0]),
    "an end is unsafe": ({}, {"dones": 1}, [1.25, 0.5, 1.0]),
    "an end is safe": ({"safe_ends": True}, {"dones": 1}, [1.5, 1.0, 2.0]),
}


class Chain(gym.Env):
    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)


@pytest.mark.parametrize("name", CHAINS)
def test_safe_steps_of_a_chain_have_their_closed_form(name):
    arguments, last, expected = CHAINS[name]
    model = tiny(DualAgent, Chain(), gamma_risk=0.5, learning_rate=1e-2, tau=0.2, optimize="fused", **arguments)
    batch = chain(**last)
    for _ in range(250):
        model._fit_critics(model.policy, batch, model._targets(batch))
        model._move_targets(model.policy)
    with th.no_grad():
        values = th.cat(model.critic(batch.observations[:3], batch.actions[:3]), dim=1)
    assert np.allclose(values, np.array(expected)[:, None], atol=0.06)


def test_the_actors_loss_by_hand():
    model = tiny(DualAgent, baseline=to_the_right).learn(25)
    batch = model.replay_buffer.sample(8)
    actions, value = th.zeros(8, 2), th.arange(8.0).unsqueeze(1)
    with th.no_grad():
        model.multiplier.raw.fill_(2.0)
    assert model._actor_loss(batch, actions, value).item() == pytest.approx(2.0 - 2.0 * 3.5)  # |0 - (1, 1)|^2 = 2


def test_the_multiplier_starts_at_zero_and_follows_the_shortfall(monkeypatch):
    model = tiny(DualAgent, multiplier_learning_rate=0.01, learning_starts=1000).learn(30)
    assert model.multiplier.value == 0.0
    monkeypatch.setattr(DualAgent, "required_value", model.required_value + 5.0)  # more than it starts from
    model.train(gradient_steps=7, batch_size=16)
    expected = 0.0
    for value in model._metrics["safety/value"]:
        expected = max(expected + 0.01 * (model.required_value - value), 0.0)
    assert len(model._metrics["safety/value"]) == 3 and expected > 0.0
    assert model.multiplier.value == pytest.approx(expected)
    monkeypatch.setattr(DualAgent, "required_value", -1e6)
    model.train(gradient_steps=2, batch_size=16)
    assert model.multiplier.value == 0.0


def test_a_horizon_that_is_not_the_time_limit_is_warned_of():
    env = gym.make("safe_envs:safe/Navigation2-v0")
    with pytest.warns(UserWarning, match="horizon=50, but episodes of this environment have 100 steps"):
        DualAgent("MlpPolicy", env, baseline=to_the_right, horizon=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DualAgent("MlpPolicy", env, baseline=to_the_right, horizon=100)


@pytest.mark.parametrize("horizon", [None, 50])
def test_the_multiplier_waits_until_something_unsafe_happens(horizon):
    """From 0, the value would have to be learned first; lambda would have climbed by then."""
    model = tiny(DualAgent, baseline=to_the_right, gamma_risk=0.9, horizon=horizon).learn(20)
    with th.no_grad():
        batch = model.replay_buffer.sample(16)
        values = th.cat([*model.critic(batch.observations, batch.actions)])
    assert values.numpy() == pytest.approx(model.required_value / 0.95, abs=0.7)
    safe = batch._replace(costs=th.zeros_like(batch.costs), timeouts=th.zeros_like(batch.dones))
    for model._n_updates in range(200):
        model._update(safe)
    assert max(model._metrics["safety/multiplier"]) < 0.02


def test_the_learned_baseline_is_td3():
    """With all behaviour the baseline's, it sees what TD3 would; the safe agent leaves its updates alone."""
    model = tiny(DualAgent, baseline_share=1.0).learn(25)
    single = tiny(SafeTD3).learn(25)
    single.policy.load_state_dict(model.baseline_policy.state_dict())
    for policy in (single.policy, model.baseline_policy):
        for part in (policy.actor, policy.critic):
            part.optimizer.state.clear()
    batch = model.replay_buffer.sample(16)
    for n in (1, 2):
        single._n_updates = model._n_updates = n
        th.manual_seed(n)
        single._update(batch)
        th.manual_seed(n)
        model._learn_baseline(model.baseline_policy, batch)
    own, theirs = model.baseline_policy.state_dict(), single.policy.state_dict()
    assert all(th.equal(own[name], theirs[name]) for name in theirs)


def test_logs_show_both_agents(tmp_path):
    model = tiny(DualAgent)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(60, log_interval=1)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {
        "train/actor_loss", "train/critic_loss", "baseline/actor_loss", "baseline/critic_loss", "safety/multiplier",
        "safety/value", "safety/required_value", "safety/imitation_loss", "rollout/ep_cost_mean",
    } <= set(header)  # fmt: skip


# ---------------------------------------------------------------------- acting


def test_each_step_is_made_by_one_of_the_two():
    for share in (0.0, 1.0, 0.5):
        env = vec(4)
        model = tiny(
            DualAgent, env, baseline=to_the_right, baseline_share=share, learning_starts=0, gradient_steps=0,
            action_noise=noise(std=0.0),
        ).learn(400)  # fmt: skip
        executed = np.concatenate([each.executed for each in env.envs])
        made = np.isclose(executed, HIGH, atol=1e-4).all(axis=1).mean()
        assert abs(made - share) < 0.1
        assert not np.isclose(model.predict(env.reset())[0], HIGH).all()


def test_noise_is_gaussian_unless_given():
    assert np.allclose(tiny(DualAgent).action_noise._sigma, 0.1)
    assert np.allclose(tiny(DualAgent, action_noise=noise(std=0.4)).action_noise._sigma, 0.4)
    assert tiny(DualAgent, Square()).learn(30).predict(np.zeros(2, np.float32))[0].shape == (2, 2)


class Square(Corridor):
    """Actions are a matrix."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(np.stack([LOW, LOW]), np.stack([HIGH, HIGH]))

    def step(self, action):
        return super().step(action[0])


# ---------------------------------------------------------------------- baselines


MOVES = {
    "evaluation": lambda model: evaluate_safely(model.baseline, model.get_env(), 1),
    "imitation": lambda model: imitate(tiny(SAC), to_the_right, model.get_env(), n_transitions=5, steps=1),
    "cost model": lambda model: LinearCostModel(model.observation_space, model.action_space).fit_in(
        model.get_env().envs[0], n_transitions=5, steps=1
    ),
}


@pytest.mark.parametrize("baseline", [None, to_the_right])
@pytest.mark.parametrize("move", MOVES)
def test_others_may_act_where_the_model_learns(move, baseline):
    model = tiny(DualAgent, vec(noise=0.0), baseline=baseline).learn(25)
    MOVES[move](model)
    model.learn(5, reset_num_timesteps=False)
    assert np.array_equal(model.replay_buffer.observations[25, 0], [0.0, 1.0])  # of a new episode


class WithPredict:
    def predict(self, obs, deterministic=False):
        return to_the_right(obs), None


SOURCES = {
    "SAC": lambda: SAC("MlpPolicy", Corridor(), policy_kwargs={"net_arch": [4]}),
    "PPO": lambda: PPO("MlpPolicy", vec(2), policy_kwargs={"net_arch": [4]}),
    "TD3, VecNormalize": lambda: tiny(TD3, vec(normalize=True)).learn(10),
    "RecoveryRL": lambda: tiny(RecoveryRL),
    "DualAgent": lambda: tiny(DualAgent),
    "object": WithPredict,
}


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("kind", SOURCES)
def test_any_model_is_a_baseline_and_comes_back_from_a_file(kind, tmp_path):
    source, (obs, _) = SOURCES[kind](), some_observations()
    normalizer = getattr(source, "_vec_normalize_env", None)
    expected, _ = source.predict(normalizer.normalize_obs(obs) if normalizer else obs, deterministic=True)
    model = tiny(DualAgent, vec(2), baseline=source).learn(40)
    model.save(tmp_path / "model")
    if isinstance(source, SAC):
        source.learn(150)  # changes nothing for the others
    for each in (model, DualAgent.load(tmp_path / "model", env=vec(2)).learn(30)):
        assert np.allclose(each.baseline.predict(obs)[0], expected, atol=1e-5)
        assert np.allclose(each.baseline.predict(obs[0])[0], expected[0], atol=1e-5)
    assert (tmp_path / "model.zip").stat().st_size < 600_000


def test_a_baseline_sees_raw_observations():
    seen = []

    def controller(obs):
        seen.append(obs)
        return to_the_right(obs)

    env = vec(2, normalize=True)
    env.clip_obs = 0.1  # what is cut off cannot be computed back
    model = tiny(DualAgent, env, baseline=controller).learn(60)
    assert all(np.allclose(rows.sum(axis=1), 1.0, atol=1e-3) for rows in seen)  # x and 1 - x
    assert all(np.ptp(rows[:, 0]) > 0.5 for rows in seen if len(rows) == 16)  # batches, from start to wall
    assert np.allclose(model.baseline.predict(model.env.reset())[0], HIGH)


def test_a_baseline_of_other_observations_needs_a_translation():
    source = SAC("MultiInputPolicy", DictCorridor(), policy_kwargs={"net_arch": [4]})
    with pytest.raises(ValueError, match=r"baseline SAC has the observation space Dict.*baseline_observation="):
        tiny(DualAgent, baseline=source)

    def observation(obs):
        return {"position": obs[:, :1], "gap": obs[:, 1:]}

    model = tiny(DualAgent, baseline=source, baseline_observation=observation).learn(30)
    obs, _ = some_observations()
    assert np.allclose(model.baseline.predict(obs)[0], source.predict(observation(obs), deterministic=True)[0])


def test_a_baseline_of_other_actions_is_refused():
    env = Corridor()
    env.action_space = spaces.Box(-1.0, 1.0, (2,))
    with pytest.raises(ValueError, match="has the action space"):
        tiny(DualAgent, baseline=SAC("MlpPolicy", env), baseline_observation=lambda obs: obs)


def test_a_controller_of_other_spaces_is_refused():
    made = tiny(DualAgent, baseline=to_the_right).baseline
    other = Corridor()
    other.action_space = spaces.Box(-1.0, 1.0, (2,))
    with pytest.raises(ValueError, match=r"was made for the action space .*, the environment has Box\(-1"):
        tiny(DualAgent, other, baseline=made)
    with pytest.raises(ValueError, match="was made for the observation space"):
        tiny(DualAgent, DictCorridor(), baseline=made)
    with pytest.raises(ValueError, match="a Controller has its own observe"):
        tiny(DualAgent, baseline=made, baseline_observation=lambda obs: obs)


def test_a_baseline_that_saw_normalised_observations_says_what_it_lacks(tmp_path):
    env = vec(normalize=True)
    model = tiny(DualAgent, env, baseline=to_the_right).learn(60)
    with pytest.raises(ValueError, match="trained under VecNormalize, env shows raw observations"):
        evaluate_safely(model.baseline, vec(), 1)
    model.save(tmp_path / "model")
    alone, seen = DualAgent.load(tmp_path / "model"), env.reset()
    assert alone.predict(seen)[0].shape == (1, 2)
    with pytest.raises(ValueError, match=r"saw through a VecNormalize, which is not in the file: load\(path, env="):
        alone.baseline.predict(seen)
    tiny(DualAgent, vec(normalize=True)).save(tmp_path / "learned")
    with pytest.raises(ValueError, match="trained under VecNormalize, env shows raw observations"):
        evaluate_safely(DualAgent.load(tmp_path / "learned").baseline, vec(), 1)
    again = DualAgent.load(tmp_path / "model", env=env)
    assert np.allclose(again.baseline.predict(seen)[0], model.baseline.predict(seen)[0])


def test_a_model_without_its_statistics_is_no_baseline(tmp_path):
    tiny(SafeTD3, vec(normalize=True)).learn(30).save(tmp_path / "model")
    with pytest.raises(ValueError, match="baseline SafeTD3 learned with a VecNormalize and was loaded without it"):
        tiny(DualAgent, baseline=SafeTD3.load(tmp_path / "model"))


def of_one(obs):
    return obs * np.nan


class WithMemory:
    def predict(self, obs, deterministic=False):
        return to_the_right(obs), (np.zeros(3),)


@pytest.mark.parametrize(
    ("baseline", "error", "message"),
    [
        ("a path", TypeError, "must be an SB3 model or a function"),
        (lambda obs: HIGH, ValueError, r"shape \(16, 2\) for 16 observations, got \(2,\).*np.stack"),
        (lambda obs: None, ValueError, "must return actions of shape"),
        (WithMemory(), ValueError, r"WithMemory has a memory .*without recurrence"),
        (of_one, ValueError, "baseline of_one must return finite actions, got"),
    ],
)
def test_bad_baselines(baseline, error, message):
    with pytest.raises(error, match=message):
        tiny(DualAgent, baseline=baseline, baseline_share=0.0).learn(30)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"eps_risk": 1.5}, r"eps_risk must be in \[0, 1\], got 1.5"),
        ({"eps_risk": float("nan")}, "eps_risk must be"),
        ({"gamma_risk": 1.0}, r"gamma_risk must be in \[0, 1\), got 1.0"),
        ({"gamma_risk": -0.1}, "gamma_risk must be"),
        ({"horizon": 0}, "horizon must be a whole number >= 1 or None, got 0"),
        ({"horizon": 2.5}, "horizon must be a whole number >= 1 or None, got 2.5"),
        ({"multiplier_learning_rate": float("nan")}, "multiplier_learning_rate must be finite and >= 0, got nan"),
        ({"critic_warmup": -1}, "critic_warmup must be >= 0, got -1"),
        ({"horizon": 10, "safe_ends": True}, "safe_ends=True needs horizon=None"),
        ({"baseline_share": 2.0}, "baseline_share must be"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(DualAgent, **kwargs)


def test_missing_cost_raises_with_the_remedy():
    with pytest.raises(MissingCostError, match=r"safe_wrappers\.CostFromFunction"):
        tiny(DualAgent, Corridor(with_cost=False)).learn(5)


# ---------------------------------------------------------------------- files


class Unsaved:
    """Holds what cannot be pickled, as a connection to a simulator would be."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, obs):
        return to_the_right(obs)


def test_a_baseline_that_cannot_be_saved_must_be_passed_again(tmp_path):
    model = tiny(DualAgent, baseline=Unsaved()).learn(40)
    with pytest.warns(UserWarning, match="baseline Unsaved cannot be pickled and is not saved"):
        model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"pass the same one again: load\(path, baseline=...\)"):
        DualAgent.load(tmp_path / "model")
    again = DualAgent.load(tmp_path / "model", env=Corridor(), baseline=Unsaved())
    assert_same_weights(model, again)
    again.learn(10)
    with pytest.warns(UserWarning, match="is not saved"):
        model.save_checkpoint(tmp_path / "checkpoint")
    DualAgent.load_checkpoint(tmp_path / "checkpoint", baseline=Unsaved()).learn(10, reset_num_timesteps=False)


def test_another_limit_may_be_loaded_but_no_other_meaning_of_the_values(tmp_path):
    tiny(DualAgent).save(tmp_path / "model")
    model = DualAgent.load(tmp_path / "model", eps_risk=0.5)
    assert model.required_value == pytest.approx(safe_steps(0.5, 0.9))
    assert DualAgent.load(tmp_path / "model", gamma_risk=0.9).required_value == pytest.approx(9.5)
    for name, value in {"gamma_risk": 0.5, "horizon": 10, "safe_ends": True}.items():
        with pytest.raises(ValueError, match=f"have learned with {name}=.*, got {value}"):
            DualAgent.load(tmp_path / "model", **{name: value})
    with pytest.raises(ValueError, match=r"eps_risk must be in \[0, 1\], got 2"):
        DualAgent.load(tmp_path / "model", eps_risk=2)


def test_a_model_that_learns_its_baseline_takes_none_from_load(tmp_path):
    tiny(DualAgent).save(tmp_path / "model")
    with pytest.raises(ValueError, match="learns its baseline"):
        DualAgent.load(tmp_path / "model", baseline=to_the_right)


def test_models_and_controllers_are_pickled():
    model = tiny(DualAgent, vec(2, normalize=True), baseline=SOURCES["SAC"]()).learn(40)
    obs, _ = some_observations()
    again = cloudpickle.loads(cloudpickle.dumps(model))
    assert np.array_equal(again.predict(obs)[0], model.predict(obs)[0])
    controller = cloudpickle.loads(cloudpickle.dumps(model.baseline))
    assert controller.normalizer is None and np.array_equal(controller(obs), model.baseline(obs))


def test_controllers_clip_and_round_to_the_action_space():
    controller = Controller(
        lambda obs: 100.0 * np.ones((len(obs), 2)), Corridor.observation_space, spaces.Box(LOW, HIGH)
    )
    actions = controller(np.zeros((3, 2), np.float32))
    assert actions.dtype == np.float32 and np.array_equal(actions, to_the_right(actions))


# ---------------------------------------------------------------------- behaviour


def test_an_unsafe_controller_is_corrected():
    """Full speed to the right ends behind the wall; the corrected agent goes right and stops before it."""
    model = tiny(
        DualAgent, baseline=to_the_right, gamma_risk=0.5, multiplier_learning_rate=0.02, learning_rate=3e-3,
        learning_starts=100, batch_size=64, optimize="fused",
    ).learn(1500)  # fmt: skip
    unsafe = evaluate_safely(model.baseline, Corridor(), 5, seed=1)
    corrected = evaluate_safely(model, Corridor(), 5, seed=1)
    assert unsafe.violation_rate == 1.0 and unsafe.costs.mean() > 5.0
    assert corrected.costs.mean() < 0.05 * unsafe.costs.mean() and corrected.returns.mean() > 3.0
