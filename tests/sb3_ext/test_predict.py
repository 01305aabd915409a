"""Two actions: what the deployed agent executes, what the environment receives, what the buffer holds."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import (
    HIGH,
    LOW,
    QUIET,
    SPEED,
    WALL,
    Corridor,
    DictCorridor,
    noise,
    pretrained,
    recorded,
    some_observations,
    tiny,
    vec,
)
from stable_baselines3.common.vec_env import VecNormalize

from safe_wrappers import RecoveryFilter
from safe_wrappers.info import EXECUTED_ACTION, INTERVENED, PROPOSED_ACTION, RISK
from sb3_ext import SQRL, RecoveryRL, SafeEvalCallback, SafeTD3, ThresholdRecovery, VecRecoveryFilter, load_filter
from sb3_ext.common.buffers import scale_action, unscale_action

pytestmark = pytest.mark.filterwarnings(QUIET)
BACK = np.array([-1.0, 5.0], np.float32)  # the recovery action of the hand-made filter


class Hits(th.nn.Module):
    """Hand-made critic: 1 where the noise-free next position is behind the wall, else 0."""

    def forward(self, obs, actions):
        move = SPEED * th.as_tensor(unscale_action(actions.numpy(), Corridor().action_space))[:, :1]
        return (obs[:, :1] + move > WALL).float()


class GoBack:
    """Hand-made recovery policy."""

    def act(self, obs, deterministic):
        return th.as_tensor(scale_action(np.repeat(BACK[None], len(obs), axis=0), Corridor().action_space))


def filtered(cls=SafeTD3, env=None, eps_risk=0.5, **kwargs):
    """A model behind the hand-made filter."""
    model = tiny(cls, Corridor(noise=0.0) if env is None else env, **kwargs)
    model.selector = ThresholdRecovery(Hits(), GoBack(), eps_risk)
    return model


def rows(model):
    """Positions, proposed and executed actions of everything in the replay buffer, in environment units."""
    buffer, n = model.replay_buffer, model.replay_buffer.size()
    space = model.action_space
    actions = (unscale_action(a[:n].reshape(-1, 2), space) for a in (buffer.actions, buffer.executed_actions))
    return buffer.observations[:n].reshape(-1, 2)[:, 0], *actions


def executed_by(model):
    """What the environments received, in the order of the replay buffer."""
    received = model.env.get_attr("executed")
    return np.stack(received, axis=1).reshape(-1, 2)


def hits(x, actions):
    return x + SPEED * actions[:, 0] > WALL + 1e-6


# ---------------------------------------------------------------------- predict


def test_predict_is_filtered_and_tells_where():
    model = filtered()
    model.policy.predict = lambda *args, **kwargs: (np.repeat(HIGH[None], 3, axis=0), None)
    actions, _ = model.predict(np.array([[0.0, 1.0], [0.9, 0.1], [0.65, 0.35]], np.float32), deterministic=True)
    assert np.allclose(actions, [HIGH, BACK, HIGH], atol=1e-5)
    assert model.last_intervened.tolist() == [False, True, False]


def test_predict_of_a_single_observation():
    model = filtered()
    model.policy.predict = lambda *args, **kwargs: (HIGH, None)
    action, _ = model.predict(np.array([0.9, 0.1], np.float32))
    assert action.shape == (2,) and np.allclose(action, BACK, atol=1e-5)


def test_actions_that_are_not_replaced_are_exactly_the_policys():
    model = filtered(eps_risk=1.0)
    obs, _ = some_observations()
    assert np.array_equal(model.predict(obs)[0], model.policy.predict(obs)[0]) and not model.last_intervened.any()


@pytest.mark.parametrize("cls", [RecoveryRL, SQRL])
def test_no_executed_action_is_riskier_than_the_limit_if_it_is_avoidable(cls):
    model = pretrained(cls)
    obs, _ = some_observations(200)
    actions, _ = model.predict(obs)
    risky = model.risk(obs, model.policy.predict(obs)[0]) > 0.3
    kept = ~model.last_intervened
    assert 0 < risky.sum() < 200 and 0 < kept.sum() < 200
    assert (model.risk(obs, actions)[kept] <= 0.3 + 1e-6).all()
    if cls is RecoveryRL:
        model.policy.predict = lambda *args, **kwargs: (proposed, None)
        proposed = some_observations(200, seed=5)[1]
        actions, _ = model.predict(obs, deterministic=True)
        expected = np.where((model.risk(obs, proposed) > 0.3)[:, None], model.recovery(obs), proposed)
        assert np.allclose(actions, expected, atol=1e-5)


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("warm_up", [True, False])
def test_buffer_holds_proposals_and_the_environment_received_executed_actions(n_envs, warm_up):
    env = vec(n_envs, noise=0.0, horizon=30)
    model = filtered(env=env, learning_starts=1000 if warm_up else 0, gradient_steps=0, action_noise=noise(std=1.0))
    if not warm_up:
        model.policy.predict = lambda obs, *args, **kwargs: (np.full((n_envs, 2), 2.0, np.float32), None)
    model.learn(90 * n_envs)
    x, proposed, executed = rows(model)
    refused = hits(x, proposed)
    assert 5 < refused.sum() < 80 * n_envs
    assert np.allclose(executed[~refused], proposed[~refused], atol=1e-5)
    assert np.allclose(executed[refused], BACK, atol=1e-5)
    assert np.allclose(executed, executed_by(model), atol=1e-5)
    assert model.n_interventions == refused.sum() and model.n_violating_episodes == 0
    assert proposed[:, 0].std() > 0.3  # exploration noise is part of the proposal


def test_without_relabelling_the_buffer_holds_executed_actions_twice():
    model = filtered(env=vec(noise=0.0, horizon=30), learning_starts=1000)
    model.relabel = False
    model.learn(90)
    x, proposed, executed = rows(model)
    assert model.n_interventions > 5 and not hits(x, proposed).any() and np.array_equal(proposed, executed)


@pytest.mark.parametrize(("relabel", "differ"), [(True, True), (False, False)])
def test_recovery_rl_relabels_if_asked(relabel, differ):
    model = tiny(RecoveryRL, relabel=relabel, eps_risk=0.0, learning_starts=10).learn(20)
    assert model.n_interventions == 20
    _, proposed, executed = rows(model)
    assert (not np.allclose(proposed, executed)) == differ
    assert np.allclose(executed, executed_by(model), atol=1e-5)


def test_sqrl_learns_from_what_its_masked_policy_executed():
    model = tiny(SQRL, eps_risk=0.0, learning_starts=10).learn(20)
    _, proposed, executed = rows(model)
    assert np.array_equal(proposed, executed) and np.allclose(executed, executed_by(model), atol=1e-5)


def test_infos_carry_both_actions_in_environment_units():
    infos = []
    model = filtered(env=vec(noise=0.0, horizon=30), learning_starts=1000)
    model.learn(60, callback=lambda local, _: infos.extend(local["infos"]) or True)
    x, proposed, executed = rows(model)
    assert np.allclose([info[PROPOSED_ACTION] for info in infos], proposed, atol=1e-5)
    assert np.allclose([info[EXECUTED_ACTION] for info in infos], executed, atol=1e-5)
    assert [info[INTERVENED] for info in infos] == hits(x, proposed).tolist()


def test_a_filter_among_the_wrappers_relabels_too():
    env = RecoveryFilter(
        Corridor(noise=0.0, horizon=30),
        lambda obs, action: hits(obs[:, 0], action).astype(float),
        lambda obs: np.repeat(BACK[None], len(obs), axis=0),
        eps_risk=0.5,
    )
    infos = []
    model = filtered(env=env, eps_risk=1.0, learning_starts=1000)  # the model's own filter never acts
    model.learn(90, callback=lambda local, _: infos.extend(local["infos"]) or True)
    x, proposed, executed = rows(model)
    refused = hits(x, proposed)
    assert refused.sum() > 5 and np.allclose(executed[refused], BACK, atol=1e-5)
    assert np.allclose(proposed[~refused], executed[~refused], atol=1e-5)
    assert model.n_interventions == refused.sum() and np.allclose(
        [i[PROPOSED_ACTION] for i in infos], proposed, atol=1e-5
    )


@pytest.mark.parametrize("eval_envs", [1, 2])
def test_evaluation_in_between_does_not_change_who_intervened(eval_envs):
    model = filtered(env=vec(3, noise=0.0, horizon=30), learning_starts=1000)
    callback = SafeEvalCallback(vec(eval_envs, noise=0.0), 0.0, n_eval_episodes=1, eval_freq=1)
    model.learn(180, callback=callback)
    x, proposed, _ = rows(model)
    assert model.n_interventions == hits(x, proposed).sum() > 5


# ---------------------------------------------------------------------- filters as wrappers

SETTINGS = {
    "raw": {},
    "VecNormalize": {"normalize": True},
    "Dict": {"kind": DictCorridor},
    "Dict, VecNormalize": {"kind": DictCorridor, "normalize": True},
}


def trained(kind=Corridor, **kwargs):
    data = recorded(500, dict_obs=kind is DictCorridor)
    return pretrained(RecoveryRL, vec(2, kind, **kwargs), data).learn(60)


@pytest.mark.parametrize("setting", SETTINGS)
def test_exported_filter_decides_as_the_algorithm_does(setting, tmp_path):
    model = trained(**SETTINGS[setting])
    model.export_filter(tmp_path / "filter.zip")
    exported = load_filter(tmp_path / "filter.zip")
    kind = SETTINGS[setting].get("kind", Corridor)
    data = recorded(100, dict_obs=kind is DictCorridor, seed=3)
    normalizer: VecNormalize | None = model.get_vec_normalize_env()
    seen = data.observations if normalizer is None else normalizer.normalize_obs(data.observations)
    assert np.allclose(exported.risk(data.observations, data.actions), model.risk(seen, data.actions), atol=1e-6)
    assert np.allclose(exported.recovery(data.observations), model.recovery(seen), atol=1e-5)
    assert (exported.eps_risk, exported.kind) == (0.3, "probability")

    model.policy.predict = lambda *args, **kwargs: (data.actions, None)
    inside, _ = model.predict(seen, deterministic=True)
    wrapped = RecoveryFilter.from_model(kind(noise=0.0), tmp_path / "filter.zip")
    executed, intervened = [], []
    for i, action in enumerate(data.actions):
        obs = {k: v[i] for k, v in data.observations.items()} if kind is DictCorridor else data.observations[i]
        wrapped.reset()
        wrapped._observation = {k: v[None] for k, v in obs.items()} if kind is DictCorridor else obs[None]
        *_, info = wrapped.step(action)
        executed.append(info[EXECUTED_ACTION])
        intervened.append(info[INTERVENED])
    assert intervened == model.last_intervened.tolist() and 0 < sum(intervened) < 100
    assert np.allclose(executed, inside, atol=1e-5)


def test_filter_of_a_model_with_a_cost_limit(tmp_path):
    model = tiny(RecoveryRL, cost_limit=1.0, episode_length=10)
    model.export_filter(tmp_path / "filter.zip")
    exported = load_filter(tmp_path / "filter.zip")
    assert (exported.eps_risk, exported.kind) == (model.limit, "return")
    RecoveryFilter.from_model(Corridor(), tmp_path / "filter.zip")


def step_infos(env, actions, n_envs):
    env.seed(0)
    env.reset()
    found = []
    for action in actions:
        _, _, _, infos = env.step(np.repeat(action[None], n_envs, axis=0))
        found.append([(i[PROPOSED_ACTION], i[EXECUTED_ACTION], i[INTERVENED], i[RISK]) for i in infos])
    return found


def test_vec_recovery_filter_equals_recovery_filter(tmp_path):
    exported = trained().export_filter(tmp_path / "filter.zip")
    actions = some_observations(25)[1]
    outside = step_infos(VecRecoveryFilter.from_model(vec(3), exported), actions, 3)
    inside = step_infos(vec_of_filters(exported, 3), actions, 3)
    for first, second in zip(outside, inside, strict=True):
        for own, other in zip(first, second, strict=True):
            assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(own, other, strict=True))
    assert 0 < sum(info[2] for infos in outside for info in infos) < 75


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(2), r"shape \(3, 2\), got .* of shape \(2,\)"),
        (np.zeros((2, 2)), r"shape \(3, 2\)"),
        (np.full((3, 2), np.nan), "finite action"),
    ],
)
def test_vec_recovery_filter_refuses_bad_actions_before_any_environment_moves(action, message):
    inner = vec(3)
    env = VecRecoveryFilter(inner, lambda obs, action: 0 * obs[:, 0], lambda obs: 0 * obs, 0.5)
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step(np.zeros((3, 2), np.float32))
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(action)
    assert not any(corridor.executed for corridor in inner.envs)
    env.step(np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("functions", [(None, len), (len, 3)])
def test_vec_recovery_filter_needs_functions(functions):
    with pytest.raises(TypeError, match=r"(risk|recovery) must be a function"):
        VecRecoveryFilter(vec(), *functions, 0.5)


def vec_of_filters(exported, n_envs):
    return vec(n_envs, lambda: RecoveryFilter.from_model(Corridor(), exported))


def test_nested_filters_tell_what_the_environment_received():
    """The inner filter always acts, the outer one never does."""

    def always(obs, action):
        return np.ones(len(obs))

    def back(obs):
        return np.repeat(BACK[None], len(obs), axis=0)

    inner = vec(2, lambda: RecoveryFilter(Corridor(), always, back, 0.5))
    env = VecRecoveryFilter(inner, always, back, 1.0)
    env.reset()
    *_, infos = env.step(np.repeat(LOW[None], 2, axis=0))
    for info in infos:
        assert info[INTERVENED] and np.allclose(info[EXECUTED_ACTION], BACK) and np.allclose(info[PROPOSED_ACTION], LOW)


@pytest.mark.parametrize("normalize", [False, True])
def test_wrappers_take_a_trained_model_as_it_is(normalize):
    """from_model of both wrappers goes through the exported form: raw observations, the right kind and threshold."""
    model = pretrained(RecoveryRL, vec(normalize=normalize), eps_risk=None, cost_limit=3.0, episode_length=20)
    single = RecoveryFilter.from_model(Corridor(), model)
    batched = VecRecoveryFilter.from_model(vec(), model)
    exported = model.as_filter()
    assert single.kind == exported.kind == "return"
    assert single.eps_risk == batched.eps_risk == model.limit
    obs, actions = some_observations()
    np.testing.assert_array_equal(single.risk(obs, actions), exported.risk(obs, actions))
    seen = obs if not normalize else model.get_vec_normalize_env().normalize_obs(obs)
    np.testing.assert_allclose(exported.risk(obs, actions), model.risk(seen.astype(np.float32), actions), rtol=1e-4)


def test_a_filter_over_normalised_observations_is_refused():
    with pytest.raises(ValueError, match="raw observations"):
        VecRecoveryFilter.from_model(vec(normalize=True), pretrained(RecoveryRL))
