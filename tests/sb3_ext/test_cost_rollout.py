"""Cost advantages by hand, time-outs among them, and what the limits are compared with."""

import numpy as np
import pytest
import torch as th
from corridors import Corridor, assert_same_weights, vec
from on_policy import BrokenCost, DictCorridor, TermsCorridor, tiny
from stable_baselines3 import PPO

from sb3_ext import CPO, PPOLag
from sb3_ext.common.cost_rollout import CostRollout, cost_advantages

GAMMA, LAMBDA = 0.9, 0.5


def test_advantages_by_hand():
    costs, values = [1.0, 0.0, 2.0], [0.5, 1.0, 0.25, 4.0]
    third = 2.0 + GAMMA * 4.0 - 0.25
    second = 0.0 - 1.0  # the episode ends here: nothing of what follows counts
    first = 1.0 + GAMMA * 1.0 - 0.5 + GAMMA * LAMBDA * second
    columns = np.array(costs)[:, None, None], np.array(values)[:, None, None], np.array([[1.0], [0.0], [1.0]])
    assert np.allclose(cost_advantages(*columns, GAMMA, LAMBDA).ravel(), [first, second, third])


def test_advantages_of_costs_are_those_of_sb3_for_rewards():
    model = tiny(PPO, vec(3, horizon=7, ends_on_violation=True)).learn(120)
    buffer, rng = model.rollout_buffer, np.random.default_rng(0)
    buffer.reset()
    buffer.rewards, buffer.values = rng.normal(size=(2, 40, 3)).astype(np.float32)
    buffer.episode_starts = (rng.random((40, 3)) < 0.2).astype(np.float32)
    last, dones = rng.normal(size=3).astype(np.float32), np.array([True, False, False])
    buffer.compute_returns_and_advantage(th.as_tensor(last), dones)
    values = np.concatenate([buffer.values, last[None]])[..., None]
    continues = 1.0 - np.concatenate([buffer.episode_starts[1:], dones[None]])
    own = cost_advantages(buffer.rewards[..., None], values, continues, buffer.gamma, buffer.gae_lambda)
    assert np.allclose(own[..., 0], buffer.advantages, atol=1e-5)


class Recorder(PPOLag):
    """Keeps what the costs were turned into."""

    def _learn_costs(self):
        self.costs, self.timeouts = np.stack(self._costs.costs), list(self._costs.timeouts)
        self.bootstrapped = self._bootstrapped_costs()
        return super()._learn_costs()


def position(observations):
    rows = observations["position"] if isinstance(observations, dict) else observations[:, :1]
    return np.asarray(rows)


@pytest.mark.parametrize("kind", [Corridor, DictCorridor])
@pytest.mark.parametrize("normalize", [False, True])
def test_time_outs_get_the_value_of_their_last_observation(kind, normalize):
    model = tiny(Recorder, vec(2, kind, normalize, noise=0.3), cost_gamma=GAMMA)
    model.cost_critic.predict = lambda observations: 10.0 * position(observations)
    model.cost_critic.update = lambda *args: 0.0
    model.learn(80)
    assert [(t.step, t.env) for t in model.timeouts] == [(s, e) for s in (9, 19, 29, 39) for e in (0, 1)]
    added = model.bootstrapped - model.costs
    assert np.count_nonzero(added) == 8
    for timeout in model.timeouts:
        last = timeout.observation["position"] if kind is DictCorridor else timeout.observation
        assert np.isclose(added[timeout.step, timeout.env, 0], GAMMA * 10.0 * last[0], atol=1e-6)


def test_terminations_are_not_bootstrapped():
    model = tiny(Recorder, vec(2, ends_on_violation=True, horizon=1000)).learn(160)
    assert model.n_episodes > 0 and model.timeouts == []
    assert np.array_equal(model.costs, model.bootstrapped)


# ---------------------------------------------------------------------- episodes and limits


def step(rollout, costs, dones, length=1):
    for _ in range(length):
        rollout.add([{"cost": cost} for cost in costs], np.array(dones))


def test_episodes_run_on_through_rollouts():
    rollout = CostRollout(("cost",), 2)
    step(rollout, [1.0, 0.5], [False, False], length=3)
    rollout.start()
    step(rollout, [1.0, 0.5], [True, False])
    assert np.allclose(rollout.finished, [[4.0]]) and rollout.lengths == [4]
    assert np.allclose(rollout.running, [[0.0], [2.0]]) and rollout.running_length == 2.0
    assert len(rollout.costs) == 1


def compared(model, costs, dones, length):
    model._costs.start()
    step(model._costs, costs, dones, length)
    model._compare_episodes()
    return model.episode_cost.tolist(), model.episode_length


def test_what_the_limit_is_compared_with():
    model = tiny(PPOLag, vec(2))
    model.learn(0)
    assert compared(model, [1.0, 3.0], [False, False], 2) == ([4.0], 2.0)  # nothing has ended: what was reached
    assert compared(model, [0.0, 0.0], [True, False], 1) == ([2.0], 3.0)  # the one that ended
    assert compared(model, [0.0, 0.0], [False, False], 1) == ([3.0], 3.0)  # running ones have reached (0 + 6) / 2
    assert compared(model, [0.0, 0.0], [True, True], 1) == ([3.0], 3.5)


def test_multiplier_waits_for_the_first_episode_unless_the_limit_is_broken_already():
    for limit, moves in ((1000.0, False), (0.0, True)):
        model = tiny(PPOLag, vec(noise=0.3, horizon=10_000), cost_limit=limit, multiplier_kwargs={"value": 1.0})
        model.learn(200)
        assert model.n_episodes == 0 and (model.multipliers["cost"].value > 1.0) == moves
        assert moves or model.multipliers["cost"].value == 1.0


def test_several_limits_have_their_own_multipliers_and_heads():
    model = tiny(PPOLag, vec(2, TermsCorridor, noise=0.3), cost_limit={"cost_depth": 100.0, "cost_presence": 0.01})
    model.learn(800)
    assert model.multipliers["cost_depth"].value == 0.0 < model.multipliers["cost_presence"].value
    assert model.cost_critic.predict(model.env.reset()).shape == (2, 2)
    assert model.episode_cost.shape == (2,) and len(model.ep_cost_buffer) == 80


@pytest.mark.parametrize("cls", [PPOLag, CPO])
def test_one_limit_by_name_is_the_same_as_by_number(cls):
    models = [tiny(cls, vec(noise=0.3), cost_limit=limit).learn(200) for limit in (0.2, {"cost": 0.2})]
    assert_same_weights(*models)


@pytest.mark.parametrize("n_steps", [400, 100, 50])
def test_a_multiplier_moves_with_episodes_not_with_rollouts(n_steps):
    """Five episodes of 400 steps, each 5 above the limit, at a rate of 0.01: 5 x 5 x 0.01."""
    env = vec(1, kind=BrokenCost, value=1.0, horizon=400)
    price = {"learning_rate": 0.01, "optimizer": "sgd"}
    settings = {"n_steps": n_steps, "batch_size": 25, "cost_critic_kwargs": {"n_epochs": 1}}
    model = tiny(PPOLag, env, cost_limit=395.0, multiplier_kwargs=price, **settings).learn(2000)
    assert model.n_episodes == 5
    assert model.multipliers["cost"].value == pytest.approx(0.25)


def test_the_default_rate_is_one_per_step_whatever_the_rollouts_length():
    model = tiny(PPOLag, vec(2), n_steps=100, batch_size=50)
    assert model.multipliers["cost"].optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 200 / 20_000)


def test_cpos_margin_adds_up_what_was_exceeded():
    """Two rollouts of one episode each, 5 above the limit; then one far below."""
    env = vec(1, kind=BrokenCost, value=1.0, horizon=40)
    model = tiny(CPO, env, cost_limit=35.0, margin_learning_rate=0.1, n_steps=40, batch_size=20).learn(80)
    assert model.margin == pytest.approx([1.0])
    model.episode_cost, model._costs_are_news = np.array([40.0]), True
    assert model._widened_excess() == pytest.approx([5.0 + 1.5])
    model.episode_cost = np.array([0.0])
    assert model._widened_excess() == pytest.approx([-35.0])  # never negative: the margin, not the excess
    model._costs_are_news = False
    model.episode_cost = np.array([45.0])
    assert model._widened_excess() == pytest.approx([10.0])
    with pytest.raises(ValueError, match="margin_learning_rate must be >= 0"):
        tiny(CPO, margin_learning_rate=-1.0)
