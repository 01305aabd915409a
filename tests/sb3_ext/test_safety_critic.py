"""The safety critic: closed forms, units, observation spaces, files."""

import itertools

import numpy as np
import pytest
import torch as th
from corridors import HIGH, LOW, Corridor, DictCorridor, ImageCorridor, differing, recorded, some_observations, tensors
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_ext import CostBatch, SafetyCritic, load_critic, load_filter, save_critic
from sb3_ext.common.buffers import scale_action
from sb3_ext.common.safety_critic import frozen

ACTIONS = spaces.Box(LOW, HIGH)
GAMMA = 0.5


def critic(space=Corridor.observation_space, **kwargs):
    return SafetyCritic(space, ACTIONS, **{"net_arch": (16, 16), **kwargs})


def batch(rows):
    """Transitions from rows (state, next state, cost, violation, done); states are one-hot of three."""
    state, following, cost, violation, done = (th.tensor(column) for column in zip(*rows, strict=True))
    action = th.zeros(len(rows), 2)

    def column(values):
        return values.float().reshape(-1, 1)

    return CostBatch(
        th.eye(3)[state], th.full((len(rows), 2), 9.0), th.eye(3)[following], column(done), th.zeros(len(rows), 1),
        None, column(cost), column(violation), action,
    )  # fmt: skip


def learned(rows, kind, **kwargs):
    """Risks of the three states after learning the chain."""
    ours = critic(
        spaces.Box(0, 1, (3,)), kind=kind, gamma_risk=GAMMA, learning_rate=3e-3, tau=0.05, **kwargs
    )  # fmt: skip
    data, following = batch(rows), th.zeros(len(rows), 2)
    for _ in range(1500):
        ours.update(data, following)
    with th.no_grad():
        return ours(th.eye(3), th.zeros(3, 2)).flatten().numpy()


# State 0 leads to 1, 1 to 2 at a cost of 0.25 without violation, and 2 to 0 with cost 3 and a violation.
SAFE_THEN_HARM = [(0, 1, 0.0, 0, 0), (1, 2, 0.25, 0, 0)]
CASES = {
    "a violation that ends the episode": ((2, 2, 3.0, 1, 1), (0.25, 0.5, 1.0), (0.25 / 2 + 3 / 4, 0.25 + 3 / 2, 3.0)),
    # (1 - c) keeps the probability at 1 although the episode goes on; costs add up: q2 = 3 + q0 / 2.
    "a violation that does not": (
        (2, 0, 3.0, 1, 0),
        (0.25, 0.5, 1.0),
        tuple(np.linalg.solve(np.eye(3) - GAMMA * np.roll(np.eye(3), 1, axis=1), [0.0, 0.25, 3.0])),
    ),
    "an end without harm": ((2, 2, 0.0, 0, 1), (0.0, 0.0, 0.0), (0.125, 0.25, 0.0)),
    # done = 0, as the buffer stores a time-out: state 2 bootstraps from itself, 3 / (1 - gamma) = 6.
    "a time-out in a costly state": ((2, 2, 3.0, 0, 0), (0.0, 0.0, 0.0), (0.125 + 6 / 4, 0.25 + 6 / 2, 6.0)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["probability", "return"])
def test_learned_risk_equals_the_closed_form(name, kind):
    last, probabilities, returns = CASES[name]
    expected = probabilities if kind == "probability" else returns
    assert np.allclose(learned([*SAFE_THEN_HARM, last], kind), expected, atol=0.04)


def test_cross_entropy_has_the_same_fixed_point():
    last, probabilities, _ = CASES["a violation that ends the episode"]
    assert np.allclose(learned([*SAFE_THEN_HARM, last], "probability", loss="bce"), probabilities, atol=0.04)


def test_targets_by_hand():
    data = batch([(0, 1, 2.0, 1, 0), (0, 1, 2.0, 0, 0), (0, 1, 2.0, 0, 1)])
    for kind, expected in (("probability", (1.0, "q", 0.0)), ("return", ("2+q", "2+q", 2.0))):
        ours = critic(spaces.Box(0, 1, (3,)), kind=kind, gamma_risk=GAMMA)
        with th.no_grad():
            raw = ours.target(data.next_observations, th.zeros(3, 2)).amax(0)[0]
        q = GAMMA * (th.sigmoid(raw) if kind == "probability" else raw).item()
        numbers = [{"q": q, "2+q": 2 + q}.get(value, value) for value in expected]
        assert np.allclose(ours.targets(data, th.zeros(3, 2)).flatten(), numbers)


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_loss_by_hand(loss):
    ours = critic(spaces.Box(0, 1, (3,)), loss=loss)
    data = batch([(0, 1, 0.0, 1, 1), (1, 2, 0.0, 0, 1)])  # targets 1 and 0
    with th.no_grad():
        p = ours.members(data.observations, data.executed_actions)
    right = th.stack([p[:, 0], 1 - p[:, 1]])
    expected = ((1 - right) ** 2).mean(0).mean() * 2 if loss == "mse" else -th.log(right).mean() * 2
    assert np.isclose(ours.update(data, th.zeros(2, 2)), expected.item(), atol=1e-6)


def test_risk_is_the_maximum_over_members_and_members_differ():
    ours, (obs, actions) = critic(n_critics=3), some_observations()
    obs, actions = th.as_tensor(obs), th.as_tensor(actions) / 10
    members = ours.members(obs, actions)
    assert members.shape == (3, 50) and (members[0] - members[1]).abs().min() > 0
    assert th.equal(ours(obs, actions), members.max(dim=0).values.reshape(50, 1))
    assert ((members > 0) & (members < 1)).all()


def test_target_network_follows_slowly():
    ours = critic(spaces.Box(0, 1, (3,)), tau=0.1)
    before = ours.target.heads.biases[0].clone()
    ours.update(batch([(0, 1, 1.0, 1, 1)]), th.zeros(1, 2))
    online, target = ours.online.heads.biases[0], ours.target.heads.biases[0]
    assert th.allclose(target, 0.9 * before + 0.1 * online) and not th.equal(online, before)
    ours.update_target(1.0)
    assert th.allclose(ours.target.heads.weights[0], ours.online.heads.weights[0])


def test_gradients_reach_actions_through_a_frozen_critic_but_not_its_weights():
    ours, action = critic(), th.zeros(1, 2, requires_grad=True)
    with frozen(ours.online):
        risk = ours(th.ones(1, 2), action)
    risk.sum().backward()
    assert action.grad.abs().sum() > 0 and all(p.grad is None for p in ours.online.parameters())
    assert all(p.requires_grad for p in ours.online.parameters())


# ---------------------------------------------------------------------- units and spaces


def test_risk_takes_environment_units():
    ours, (obs, actions) = critic(), some_observations()
    scaled = th.as_tensor(2 * (actions - LOW) / (HIGH - LOW) - 1)
    with th.no_grad():
        expected = ours(th.as_tensor(obs), scaled).squeeze(1).numpy()
    risk = ours.risk(obs, actions)
    assert risk.shape == (50,) and risk.dtype == np.float32 and np.allclose(risk, expected, atol=1e-6)
    assert not np.allclose(risk, ours.risk(obs, scaled.numpy()), atol=1e-3)


@pytest.mark.parametrize("kind", [Corridor, DictCorridor, ImageCorridor])
def test_every_observation_space_has_a_risk_that_learns(kind):
    env = kind()
    ours = critic(kind.observation_space)
    obs = [env.reset(seed=i)[0] if i == 0 else env.step(HIGH)[0] for i in range(6)]
    stacked = {k: np.stack([o[k] for o in obs]) for k in obs[0]} if isinstance(obs[0], dict) else np.stack(obs)
    actions = np.repeat(HIGH[None], 6, axis=0)
    before = ours.risk(stacked, actions)
    inputs = ours.tensors(stacked)
    data = CostBatch(
        inputs, th.zeros(6, 2), inputs, th.ones(6, 1), th.zeros(6, 1), None,
        th.ones(6, 1), th.ones(6, 1), th.as_tensor(scale_action(actions, ACTIONS)),
    )  # fmt: skip
    for _ in range(20):
        ours.update(data, th.zeros(6, 2))
    after = ours.risk(stacked, actions)
    assert before.shape == (6,) and (after > before).all() and np.ptp(after) > 0


def test_actions_of_any_shape():
    ours = SafetyCritic(Corridor.observation_space, spaces.Box(-1, 1, (2, 3)), net_arch=(8,))
    assert ours.risk(np.zeros((4, 2), np.float32), np.zeros((4, 2, 3), np.float32)).shape == (4,)


def test_scale_inputs_standardises_features():
    ours, (obs, actions) = critic(), some_observations(200)
    obs = obs * np.array([1.0, 1000.0], np.float32)
    ours.scale_inputs(obs)
    for network in (ours.online, ours.target):
        assert np.allclose(network.observation_mean, obs.mean(0), rtol=1e-3)
        assert np.allclose(network.observation_std, obs.std(0), rtol=1e-3)
    standard = (obs - obs.mean(0)) / obs.std(0)
    risk = ours.risk(obs, actions)
    ours.online.observation_mean.zero_()
    ours.online.observation_std.fill_(1.0)
    assert np.allclose(ours.risk(standard, actions), risk, atol=1e-4)


def test_scale_inputs_survives_constant_and_single_rows():
    for rows in (np.ones((5, 2), np.float32), np.ones((1, 2), np.float32)):
        ours = critic()
        ours.scale_inputs(rows)
        assert np.isfinite(ours.risk(rows, np.zeros((len(rows), 2)))).all()


def test_scale_inputs_refuses_learned_features():
    with pytest.raises(ValueError, match="flat observations"):
        critic(ImageCorridor.observation_space).scale_inputs(np.zeros((2, 1, 36, 36), np.uint8))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kind": "odds"}, "kind must be"),
        ({"gamma_risk": 1.5}, "gamma_risk must be"),
        ({"loss": "mae"}, "loss must be"),
        ({"loss": "bce", "kind": "return"}, "loss must be"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        critic(**kwargs)


def test_discrete_actions_are_refused_with_the_alternative():
    with pytest.raises(ValueError, match="PPOLag, TRPOLag and CPO take any"):
        SafetyCritic(Corridor.observation_space, spaces.Discrete(2))


# ---------------------------------------------------------------------- files


def state(ours):
    return tensors({"weights": dict(ours.state_dict()), "optimizer": ours.optimizer.state_dict()})


def trained_critic(**kwargs):
    ours, data = critic(**kwargs), batch([(0, 1, 1.0, 1, 0)])
    data = data._replace(observations=th.ones(1, 2), next_observations=th.ones(1, 2))
    for _ in range(3):
        ours.update(data, th.zeros(1, 2))
    return ours, data


@pytest.mark.parametrize("kwargs", [{}, {"kind": "return", "n_critics": 3, "tau": 0.1}, {"loss": "bce"}])
def test_saved_critic_comes_back_and_learns_on_equally(tmp_path, kwargs):
    ours, data = trained_critic(**kwargs)
    ours.scale_inputs(recorded(20).observations)
    save_critic(ours, tmp_path / "critic.zip")
    again = load_critic(tmp_path / "critic.zip")
    assert differing(state(ours), state(again)) == [] and again.config == ours.config
    for network in (ours, again):
        network.update(data, th.zeros(1, 2))
    assert differing(state(ours), state(again)) == []


def text_file(path):
    path.write_text("not a model")


def truncated(path):
    save_critic(critic(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def sb3_model(path):
    PPO("MlpPolicy", Corridor(), policy_kwargs={"net_arch": [4]}).save(path)


@pytest.mark.parametrize(
    ("write", "load"), list(itertools.product([text_file, truncated, sb3_model], [load_critic, load_filter]))
)
def test_broken_and_foreign_files_raise_an_error_that_names_them(tmp_path, write, load):
    path = tmp_path / "critic.zip"
    write(path)
    with pytest.raises(ValueError, match=r"critic\.zip cannot be read"):
        load(path)


def test_a_critic_is_no_filter_and_a_missing_file_is_missing(tmp_path):
    save_critic(critic(), tmp_path / "critic.zip")
    with pytest.raises(ValueError, match=r"critic\.zip.*expected 'sb3-safe filter 1', found 'sb3-safe critic 1'"):
        load_filter(tmp_path / "critic.zip")
    with pytest.raises(FileNotFoundError, match=r"absent\.zip"):
        load_critic(tmp_path / "absent.zip")
