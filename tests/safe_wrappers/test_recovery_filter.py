"""The filter's decisions by hand, its info, its errors, and its construction from models and files."""

import sys
import warnings
from types import ModuleType, SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from wrapper_toys import Corridor, forward, play, recovery, risk

from safe_wrappers import CostMonitor, RecoveryFilter, filter_action, filter_actions
from safe_wrappers.info import EPISODE_COST, EXECUTED_ACTION, INTERVENED, PROPOSED_ACTION, RISK, VIOLATION

ONE = np.ones(1, dtype=np.float32)


def filtered(eps_risk=0.5, **kwargs):
    return RecoveryFilter(Corridor(), risk, recovery, eps_risk, **kwargs)


def test_an_agent_that_runs_off_the_cliff_stays_on_it():
    unsafe = CostMonitor(gym.wrappers.TimeLimit(Corridor(), 20))
    safe = CostMonitor(gym.wrappers.TimeLimit(filtered(), 20))
    # x = 6 ... 20 without the filter; with it x = 5 after 5 steps, then back and forth: steps 6, 8, ..., 20.
    summary = play(unsafe, forward(20))[-1][-1][EPISODE_COST]
    assert summary == {"cost": 15.0, "violations": 15, "interventions": 0, "length": 20}
    summary = play(safe, forward(20))[-1][-1][EPISODE_COST]
    assert summary == {"cost": 0.0, "violations": 0, "interventions": 8, "length": 20}


def test_info_of_each_step():
    steps = play(filtered(), forward(7))
    infos = [step[-1] for step in steps]
    assert [info[INTERVENED] for info in infos] == [False] * 5 + [True, False]
    assert [info[PROPOSED_ACTION].item() for info in infos] == [1.0] * 7
    assert [info[EXECUTED_ACTION].item() for info in infos] == [1.0] * 5 + [-1.0, 1.0]
    assert [info[RISK] for info in infos] == [0.0] * 5 + [1.0, 0.0]
    assert not any(info[VIOLATION] for info in infos)
    assert type(infos[0][INTERVENED]) is bool and type(infos[0][RISK]) is float
    assert infos[5][EXECUTED_ACTION].dtype == np.float32


def test_risk_equal_to_the_threshold_is_accepted():
    env = RecoveryFilter(Corridor(), lambda obs, action: np.full(len(obs), 0.3, np.float32), recovery, 0.3)
    assert not play(env, forward(1))[0][-1][INTERVENED]  # float32(0.3) > 0.3 in float64


def test_an_agent_may_propose_integers():
    env = RecoveryFilter(Corridor(), lambda obs, action: np.ones(1), lambda obs: np.array([[0.5]]), 0.1)
    assert play(env, [[1]])[0][-1][EXECUTED_ACTION].item() == 0.5


@pytest.mark.parametrize("far", [3.0, 40.0])
def test_a_proposal_beyond_the_bounds_is_judged_as_it_would_be_executed(far):
    def in_bounds(obs, action):
        assert (np.abs(action) <= 1.0).all()
        return risk(obs, action)

    env = RecoveryFilter(Corridor(), in_bounds, recovery, 0.5)
    steps = play(env, [np.full(1, far, np.float32)] * 8)
    clipped = play(RecoveryFilter(Corridor(), risk, recovery, 0.5), forward(8))
    assert [step[-1][INTERVENED] for step in steps] == [step[-1][INTERVENED] for step in clipped]
    assert [step[-1][EXECUTED_ACTION] for step in steps] == [step[-1][EXECUTED_ACTION] for step in clipped]
    assert steps[0][-1][PROPOSED_ACTION] == far and any(step[-1][INTERVENED] for step in steps)


def test_recovery_is_asked_only_where_it_is_needed():
    asked = []

    def record(obs):
        asked.append(obs.tolist())
        return recovery(obs)

    observations, actions = np.array([[4.5], [0.0], [5.0]]), np.ones((3, 1), dtype=np.float32)
    result = filter_actions(risk, record, 0.5, observations, actions)
    assert asked == [[[4.5], [5.0]]]
    assert result.executed.tolist() == [[-1.0], [1.0], [-1.0]] and actions.tolist() == [[1.0]] * 3
    assert result.intervened.tolist() == [True, False, True] and result.risks.tolist() == [1.0, 0.0, 1.0]


def test_single_decisions_equal_batched_ones():
    rng = np.random.default_rng(0)
    observations, actions = rng.uniform(3, 7, (50, 1)), rng.uniform(-1, 1, (50, 1))
    batch = filter_actions(risk, recovery, 0.5, observations, actions)
    singles = [filter_action(risk, recovery, 0.5, o, a) for o, a in zip(observations, actions, strict=True)]
    for i, (executed, intervened, value) in enumerate(singles):
        assert np.array_equal(executed, batch.executed[i])
        assert (intervened, value) == (batch.intervened[i], batch.risks[i])
    assert 0 < batch.intervened.sum() < 50


def test_the_filter_decides_on_its_own_copy_of_the_observation():
    env = filtered()
    observation, _ = env.reset()
    observation[:] = 99.0
    assert not env.step(ONE)[-1][INTERVENED]


def test_dict_observations():
    def dict_risk(obs, action):
        return risk(obs["x"], action)

    wrap = gym.wrappers.TransformObservation
    env = wrap(Corridor(), lambda x: {"x": x}, spaces.Dict(x=Corridor.observation_space))
    env = RecoveryFilter(env, dict_risk, lambda obs: recovery(obs["x"]), 0.5)
    assert [step[-1][INTERVENED] for step in play(env, forward(7))] == [False] * 5 + [True, False]


def test_discrete_actions():
    def discrete_risk(obs, action):
        return (obs[:, 0] + 2 * action - 1 > 5).astype(float)

    env = RecoveryFilter(Corridor(discrete=True), discrete_risk, lambda obs: np.zeros(len(obs), int), 0.5)
    infos = [step[-1] for step in play(env, [1] * 7)]
    assert [info[EXECUTED_ACTION] for info in infos] == [1] * 5 + [0, 1]


def test_nested_filters_report_what_the_environment_received():
    stay = RecoveryFilter(Corridor(), risk, lambda obs: 0 * obs, 0.5)
    env = RecoveryFilter(stay, lambda obs, action: 0 * obs[:, 0], recovery, 0.5)
    info = play(env, forward(6))[-1][-1]
    assert info[INTERVENED] and info[PROPOSED_ACTION].item() == 1.0 and info[EXECUTED_ACTION].item() == 0.0


@pytest.mark.parametrize("eps_risk", [-0.1, 1.1, float("nan")])
def test_threshold_of_a_probability(eps_risk):
    with pytest.raises(ValueError, match=r"eps_risk must be in \[0, 1\]"):
        filtered(eps_risk)


def test_threshold_of_a_return():
    assert filtered(25.0, kind="return").eps_risk == 25.0
    for eps_risk in (-1.0, float("inf")):
        with pytest.raises(ValueError, match="kind='return'"):
            filtered(eps_risk, kind="return")
    with pytest.raises(ValueError, match="kind must be"):
        filtered(kind="cost")


@pytest.mark.parametrize(
    "bad_risk, message",
    [
        (lambda obs, action: np.array([np.nan]), "risk must be finite, got nan"),
        (lambda obs, action: np.zeros((1, 1)), r"shape \(1,\), got \(1, 1\)"),
    ],
)
def test_bad_risk(bad_risk, message):
    with pytest.raises(ValueError, match=message):
        play(RecoveryFilter(Corridor(), bad_risk, recovery, 0.5), forward(1))


@pytest.mark.parametrize(
    "action, message",
    [(2.0, "outside the action space"), (np.nan, "must be finite"), (np.inf, "must be finite")],
)
def test_bad_recovery_action(action, message):
    env = RecoveryFilter(Corridor(), lambda obs, a: np.ones(1), lambda obs: np.full((1, 1), action), 0.5)
    with pytest.raises(ValueError, match=message):
        play(env, forward(1))


def test_recovery_of_a_wrong_shape_and_within_rounding():
    with pytest.raises(ValueError, match=r"shape \(1, 1\), got \(1,\)"):
        filter_action(lambda o, a: np.ones(1), lambda o: np.ones(1), 0.5, np.zeros(1), ONE)
    space = Corridor().action_space
    almost = filter_action(lambda o, a: np.ones(1), lambda o: np.array([[1.000001]]), 0.5, np.zeros(1), -ONE, space)
    assert almost[0].item() == 1.0


@pytest.mark.parametrize("action", [np.array([np.nan]), np.ones(2), "left", None])
def test_bad_proposed_action_leaves_the_environment_alone(action):
    env = filtered()
    play(env, forward(2))
    with pytest.raises(ValueError, match="expected a"):
        env.step(action)
    assert env.step(ONE)[0].item() == 3.0


def test_step_before_reset_and_no_functions():
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        filtered().step(ONE)
    with pytest.raises(TypeError, match="recovery must be a function"):
        RecoveryFilter(Corridor(), risk, None, 0.5)


def model(**changes):
    parts = {"risk": risk, "recovery": recovery, "eps_risk": 0.5, "kind": "probability"}
    spaces_ = {"observation_space": Corridor.observation_space, "action_space": Corridor().action_space}
    return SimpleNamespace(**{**parts, **spaces_, **changes})


def test_from_model_decides_as_the_model():
    env = RecoveryFilter.from_model(Corridor(), model())
    assert [step[-1][INTERVENED] for step in play(env, forward(7))] == [False] * 5 + [True, False]
    assert RecoveryFilter.from_model(Corridor(), model(), eps_risk=0.1).eps_risk == 0.1
    assert RecoveryFilter.from_model(Corridor(), model(kind="return", eps_risk=3.0)).kind == "return"


def test_from_model_checks_the_spaces_and_the_parts():
    other = spaces.Box(-1.0, 1.0, (3,), np.float32)
    with pytest.raises(ValueError, match=r"observation space Box\(.*\(3,\).*environment's Box\(.*\(1,\)"):
        RecoveryFilter.from_model(Corridor(), model(observation_space=other))
    with pytest.raises(ValueError, match="action space"):
        RecoveryFilter.from_model(Corridor(), model(action_space=other))
    with pytest.raises(TypeError, match="recovery"):
        RecoveryFilter.from_model(Corridor(), SimpleNamespace(risk=risk, eps_risk=0.5))


def test_a_filter_of_another_environment_warns_and_names_both():
    env = gym.make("Pendulum-v1")
    spaces_of = {"observation_space": env.observation_space, "action_space": env.action_space}
    with pytest.warns(UserWarning, match=r"made for 'Other-v0', the environment is 'Pendulum-v1'") as caught:
        RecoveryFilter.from_model(env, model(env_id="Other-v0", **spaces_of))
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RecoveryFilter.from_model(env, model(env_id="Pendulum-v1", **spaces_of))
        RecoveryFilter.from_model(env, model(env_id=None, **spaces_of))
        RecoveryFilter.from_model(Corridor(), model(env_id="Other-v0"))  # this one has no ID


def test_from_a_file_goes_through_the_loader(monkeypatch, tmp_path):
    opened = []
    module = ModuleType("sb3_ext.common.export")
    module.load_filter = lambda path: opened.append(path) or model()
    monkeypatch.setitem(sys.modules, "sb3_ext.common.export", module)
    RecoveryFilter.from_model(Corridor(), tmp_path / "filter.zip")
    assert opened == [tmp_path / "filter.zip"]


def test_from_a_file_without_the_loaders_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_ext.common.export", None)
    with pytest.raises(gym.error.DependencyNotInstalled, match="pip install sb3-safe"):
        RecoveryFilter.from_model(Corridor(), "filter.zip")
