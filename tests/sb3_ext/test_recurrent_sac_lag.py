"""``RecurrentSACLag``: hidden states, targets, gradients, limits, and what it learns."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import ImageCorridor
from recurrent_toys import SIZES, Camera, Counter, Cue, Temptation, tiny, vec
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize
from stable_baselines3.sac.policies import MultiInputPolicy

from safe_wrappers.feedback import PreviousFeedback
from safe_wrappers.info import MissingCostError
from sb3_ext import SafeEvalCallback, evaluate_safely
from sb3_ext.recurrent.networks import squared_error
from sb3_ext.recurrent.recurrent_sac_lag import RecurrentSACLag

# ---------------------------------------------------------------------- hidden states


def rolled_out(monkeypatch, steps=33, **kwargs):
    """A model whose weights stayed as they were, its environments' rows, and the states its rollout went through."""
    model = tiny(vec(Camera, 2), gradient_steps=0, learning_starts=10, **kwargs)
    states, advance = [], model.policy.advance
    monkeypatch.setattr(model.policy, "advance", lambda *args: states.append(advance(*args)) or states[-1])
    model.learn(2 * steps)
    return model, th.stack(states)


def test_replay_goes_through_the_hidden_states_of_the_rollout(monkeypatch):
    model, states = rolled_out(monkeypatch)  # episodes of 8 steps: 9 entries each
    entries = [t + t // 8 for t in range(len(states))]  # where a rollout's step lies in the stream
    compared = 0
    for position in (0, 10, 20):
        batch = model.replay_buffer.gather(np.array([0, 1]), np.array([position] * 2))
        outputs, _ = model.policy.trunk(batch.observations, batch.hidden, batch.episode_starts)
        for t, entry in enumerate(entries):
            if position <= entry < position + 6:
                th.testing.assert_close(outputs[entry - position], states[t], rtol=1e-4, atol=1e-5)
                compared += 1
    assert compared >= 15


def test_burn_in_reaches_the_same_states(monkeypatch):
    model, _ = rolled_out(monkeypatch, burn_in=3)
    batch = model.replay_buffer.gather(np.array([0, 1]), np.array([10, 0]))
    whole, _ = model.policy.trunk(batch.observations, batch.hidden, batch.episode_starts)
    after = model._latents(model.policy.trunk, batch)
    th.testing.assert_close(after, whole[3:])
    assert len(after) == 6


def test_predict_carries_the_state_as_the_rollout_does():
    model, env = tiny(vec(Camera)), Camera()
    env = PreviousFeedback(env)
    obs, _ = env.reset(seed=0)
    first, state = model.predict(obs, deterministic=True)
    second, later = model.predict(obs, state, deterministic=True)
    assert first.shape == (1,) and state[0].shape == (1, 8) and not np.array_equal(first, second)
    again, reset = model.predict(obs, later, episode_start=np.array([True]), deterministic=True)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(state[0], reset[0])
    both = {key: np.stack([value, value]) for key, value in obs.items()}
    actions, states = model.predict(both, (np.repeat(state[0], 2, 0),), np.array([True, False]), deterministic=True)
    np.testing.assert_allclose(actions, [first, second], rtol=1e-4)
    assert states[0].shape == (2, 8)
    samples = [model.predict(obs)[0][0] for _ in range(20)]
    assert len(set(samples)) == 20 and env.action_space.low[0] <= min(samples) <= max(samples) <= 4.0


def test_warm_up_is_random_and_moves_the_hidden_state_too():
    model = tiny(vec(lengths=(100,)), learning_starts=30, gradient_steps=0)
    with th.no_grad():
        model.policy.actor.network[-1].bias[:] = th.tensor([3.0, -20.0])  # a policy without noise
    model.learn(60)
    held = model.replay_buffer
    actions, hidden = held._rows.chunks[0]["action"][0, :60, 0], held._hidden.chunks[0][0, :6]
    assert actions[:30].min() < -0.8 and actions[:30].max() > 0.8 and np.ptp(actions[30:]) < 0.01
    assert (hidden[0] == 0.0).all() and np.abs(hidden[1:]).min() > 0.0


# ---------------------------------------------------------------------- targets and gradients


class Constant(th.nn.Module):
    """Heads that say 2, 3 and 5."""

    def forward(self, latent, actions):
        return th.tensor([2.0, 3.0, 5.0]).view(3, 1, 1).expand(3, *latent.shape[:2])


def test_targets_by_hand():
    model = tiny(vec(lengths=(2,)), ent_coef=0.0, gamma=0.5, gamma_risk=0.9, gradient_steps=0).learn(40)
    model.policy.target_heads = Constant()
    batch = model.replay_buffer.gather(np.array([0]), np.array([0]))
    _, targets = model._evaluate(batch)
    # Episode 0 ends by time limit after two steps, episode 1 for good; between them lies the last observation.
    assert batch.mask[:, 0].tolist() == [1, 1, 0, 1, 1]
    through, end = 0.5 * 2.0, 0.0
    returns = [1 + through, 2 + through, None, 1 + through, 2 + end]
    costs = [0.1 + 0.9 * 5, 0.2 + 0.9 * 5, None, 0.1 + 0.9 * 5, 0.2]
    for t in (0, 1, 3, 4):
        np.testing.assert_allclose(targets[:, t, 0], [returns[t], returns[t], costs[t]], rtol=1e-6)


class FirstEntry(th.nn.Module):
    """Heads that say the first entry of the hidden state."""

    def forward(self, latent, actions):
        return latent[..., 0].expand(3, *latent.shape[:2])


def test_targets_are_values_of_the_next_entry_in_the_slow_copies():
    model = tiny(ent_coef=0.0, gradient_steps=0).learn(60)
    with th.no_grad():
        for p in model.policy._slow():
            p.mul_(1.5)  # unlike the trunk that is learned
    model.policy.target_heads = FirstEntry()
    batch = model.replay_buffer.sample(6)
    slow, _ = model.policy.target_trunk(batch.observations, batch.hidden, batch.episode_starts)
    expected = 0.99 * (1.0 - batch.dones[:-1]) * slow[1:, :, 0]
    targets = model._evaluate(batch)[1]
    th.testing.assert_close(targets[1], batch.rewards[:-1] + expected)
    th.testing.assert_close(targets[2], batch.costs[:-1] + expected)


def test_the_entropy_is_part_of_the_return_and_not_of_the_cost():
    model = tiny(ent_coef=0.0, gradient_steps=0).learn(60)
    batch = model.replay_buffer.sample(6)
    found = []
    for ent_coef in (0.0, 0.7):
        model.ent_coef = ent_coef
        th.manual_seed(1)
        found.append(model._evaluate(batch)[1])
    th.manual_seed(1)
    with th.no_grad():
        latent = model._latents(model.policy.trunk, batch)
        _, log_prob = model.policy.actor(latent[1:])
    difference = -0.99 * (1.0 - batch.dones[:-1]) * 0.7 * log_prob
    th.testing.assert_close(found[1][0] - found[0][0], difference, rtol=1e-4, atol=1e-4)
    assert th.equal(found[0][2], found[1][2])


def gradients(model, loss):
    parameters = dict(model.policy.named_parameters())
    model.policy.optimizer.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in parameters.items() if p.grad is not None and p.grad.abs().sum() > 0}


def test_critics_train_the_trunk_and_the_policy_only_itself():
    model = tiny(vec(Camera), gradient_steps=0, horizon=3).learn(60)
    batch = model.replay_buffer.sample(8)
    latent, targets = model._evaluate(batch)
    critic_loss = squared_error(model.policy.heads(latent[:-1], batch.actions[:-1]), targets, batch.mask)
    actor_loss, *_ = model._actor_loss(latent[:-1].detach(), batch.mask)
    trained = {name.split(".")[0] for name in gradients(model, actor_loss)}
    assert trained == {"actor"}
    assert {name.split(".")[0] for name in gradients(model, critic_loss)} == {"trunk", "heads"}
    assert all(p.requires_grad for p in model.policy.heads.parameters())


def test_what_follows_no_action_is_not_learned_from():
    model = tiny(gradient_steps=0).learn(60)
    batch = model.replay_buffer.gather(np.array([0]), np.array([10]))  # an episode ends within
    assert 0.0 < batch.mask.sum() < 5
    changed = batch._replace(rewards=batch.rewards + 1e6 * (1.0 - th.cat([batch.mask, th.ones(1, 1)])))
    before = copy.deepcopy(model.policy.state_dict())
    for candidate in (batch, changed):
        model.policy.load_state_dict(before)
        th.manual_seed(0)
        model._update(candidate)
    losses = model._metrics["train/critic_loss"]
    assert losses[0] == losses[1] < 1e3


def test_slow_copies_follow():
    model = tiny(tau=0.25, gradient_steps=0).learn(40)
    before = [p.clone() for p in model.policy._slow()]
    model.train(1, 4)
    online = [p for m in (model.policy.trunk, model.policy.heads) for p in m.parameters()]
    for old, new, target in zip(before, model.policy._slow(), online, strict=True):
        th.testing.assert_close(new, 0.75 * old + 0.25 * target)
        assert not new.requires_grad
    assert any(not th.equal(a, b) for a, b in zip(before, online, strict=True))


def test_gradients_are_bounded():
    model = tiny(max_grad_norm=0.1, gradient_steps=0).learn(40)
    loss = 1e3 * sum(p.sum() for p in model.policy.learned())
    model._descend(loss)
    groups = ((model.policy.trunk, model.policy.heads), (model.policy.actor,))
    norms = [th.stack([p.grad.norm() for m in group for p in m.parameters()]).norm().item() for group in groups]
    assert norms == pytest.approx([0.1, 0.1], rel=1e-3)


# ---------------------------------------------------------------------- the limit


@pytest.mark.parametrize("cost_value, rises", [(1.01, True), (0.99, False)])
def test_the_multiplier_compares_the_cost_of_a_step(cost_value, rises):
    model = tiny(step_limit=0.01, gamma_risk=0.99)
    model._move_multiplier(cost_value)  # 0.01 * Qc against 0.01
    assert (model.multiplier.value > 1.0) is rises and model.multiplier.value != 1.0


@pytest.mark.parametrize("limit", [None, float("inf")])
def test_without_a_limit_cost_has_no_price_and_the_cost_head_learns(limit):
    model = tiny(step_limit=limit)
    before = [p.clone() for p in model.policy.heads.networks[2].parameters()]
    model.learn(60)
    assert model.price == 0.0
    assert not all(map(th.equal, before, model.policy.heads.networks[2].parameters()))


def learner(env, **kwargs):
    arguments = dict(
        policy_kwargs={"gru_size": 16, "hidden": (32,)}, batch_size=32, horizon=10, learning_rate=3e-3, gamma=0.9,
        gamma_risk=0.9, tau=0.02, learning_starts=200, train_freq=4, gradient_steps=2, ent_coef=0.01,
    )  # fmt: skip
    return tiny(env, **{**arguments, **kwargs})


def test_remembers_what_it_saw_at_the_beginning():
    model = learner(vec(Cue, 4, feedback=False), use_feedback=False, step_limit=None).learn(1600)
    result = evaluate_safely(model, vec(Cue, feedback=False), 20, seed=1)
    assert result.returns.mean() > 2.5  # of 3; without memory 0
    assert evaluate_policy(model, vec(Cue, feedback=False), 10, warn=False)[0] > 2.5
    forgetful = [model.predict(np.zeros((1, 1)), None, np.ones(1, bool), deterministic=True)[0] for _ in range(2)]
    assert forgetful[0] == forgetful[1]


def test_keeps_the_limit_where_reward_and_cost_conflict():
    steps = dict(total_timesteps=3200, log_interval=None)
    free = learner(vec(Temptation, 4), step_limit=None).learn(**{**steps, "total_timesteps": 1600})
    bound = learner(vec(Temptation, 4), step_limit=0.2, multiplier_kwargs={"learning_rate": 1e-2}).learn(**steps)
    free_cost, bound_cost = (evaluate_safely(m, vec(Temptation), 3, seed=1).costs.mean() / 10 for m in (free, bound))
    assert free_cost > 0.8  # of 1
    assert 0.03 < bound_cost < 0.35  # about 0.2, neither free nor frozen
    assert bound.multiplier.value > 0.3


# ---------------------------------------------------------------------- SB3's interface


def test_other_vector_environments_normalisation_and_logs():
    env = VecNormalize(SubprocVecEnv([lambda: PreviousFeedback(Counter())] * 2), norm_obs_keys=["observation"])
    model = tiny(env).learn(60, log_interval=1)
    raw = model.replay_buffer._rows.chunks[0]["obs"]["observation"]
    assert raw.max() >= 100.0 and raw.max() == np.round(raw.max())  # kept as they are, normalised when drawn
    assert model.replay_buffer.sample(4, env=env).observations["observation"].abs().max() <= 10.0
    assert model.replay_buffer.sample(4).observations["observation"].max() > 10.0
    env.close()


def test_logs_costs_and_the_multiplier():
    model = tiny(vec(lengths=(5,), n_envs=2))
    model.learn(80, log_interval=None)
    assert model.n_episodes == 16 and model.ep_cost_buffer[0] == pytest.approx(1.5)
    values = model.logger.name_to_value
    assert {"safety/multiplier", "safety/excess", "train/critic_loss", "train/actor_loss", "train/ent_coef"} <= set(
        values
    )
    model.dump_logs()
    assert not model.logger.name_to_value


def test_learns_an_entropy_coefficient():
    model = tiny(ent_coef="auto_0.1").learn(60)
    assert model.entropy_coef != 0.1 and 0.05 < model.entropy_coef < 0.2


def test_images_in_bytes_train_too():
    model = tiny(vec(Camera, 2, dtype=np.uint8)).learn(60)
    assert model._n_updates > 0 and "depth" in model.policy.layout.images


def test_a_box_of_pixels_alone_and_evaluation_along_the_way():
    keep = SafeEvalCallback(ImageCorridor(), 1.0, eval_freq=30, n_eval_episodes=1)
    arguments = dict(policy_kwargs=SIZES, batch_size=4, horizon=5, learning_starts=20, train_freq=8, buffer_size=4000)
    model = RecurrentSACLag("CnnPolicy", ImageCorridor(), use_feedback=False, gradient_steps=1, **arguments)
    before = model.learn(24)._hidden
    model.learn(48, callback=keep)
    assert model._n_updates > 3 and len(keep.history) == 1 and before.shape == model._hidden.shape


def test_a_callback_that_stops_loses_no_step():
    model = tiny(vec(lengths=(5,)), gradient_steps=0, train_freq=1)
    model.learn(100, callback=lambda local, _: local["self"].num_timesteps < 13)
    model.learn(20, reset_num_timesteps=False)
    rows = model.replay_buffer._rows.chunks[0][0, : model.replay_buffer.size()]
    numbers = rows["obs"]["observation"][:, 0].tolist()
    assert numbers[:9] == [0, 1, 2, 3, 4, 5, 100, 101, 102] and len(numbers) == 33 + 6
    assert model.n_episodes == 6


def test_evaluation_in_the_training_environment_starts_a_new_episode():
    model = tiny(vec(lengths=(50,)), gradient_steps=0, train_freq=1).learn(25)
    evaluate_safely(model, model.get_env(), 1)
    model.learn(25, reset_num_timesteps=False)
    starts = model.replay_buffer._rows.chunks[0][0, :50]["start"]
    assert np.flatnonzero(starts).tolist() == [0, 25]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"env": vec(feedback=False)}, "safe_wrappers.PreviousFeedback"),
        ({"n_steps": 3}, "n_steps must be 1"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage must be False"),
        ({"action_noise": object()}, "action_noise is not supported"),
        ({"cost_limit": 25.0}, "cost_limit=25.0 would be on an episode's cost: pass step_limit="),
        ({"step_limit": -1.0}, "step_limit must be >= 0 or None, got -1"),
        ({"gamma_risk": 1.0}, "gamma_risk must be below 1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be > 0"),
        ({"ent_coef": "much"}, "ent_coef must be"),
        ({"ent_coef": float("nan")}, "ent_coef must be"),
        ({"target_entropy": "x"}, "target_entropy must be a number or 'auto', got 'x'"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"policy_kwargs": {"gru_size": 0}}, "gru_size must be >= 1, got 0"),
        ({"multiplier": "magic"}, "multiplier must be one of"),
        ({"horizon": 0}, "horizon must be >= 1"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)


def test_wrong_policies_actions_and_missing_costs():
    for policy, message in (("CnnLstmPolicy", "Policy CnnLstmPolicy unknown"), (MultiInputPolicy, "RecurrentPolicy")):
        with pytest.raises(ValueError, match=message):
            RecurrentSACLag(policy, vec(), policy_kwargs=SIZES)
    discrete = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match="Box action space"):
        RecurrentSACLag("MlpPolicy", discrete, use_feedback=False, missing_cost="zero", policy_kwargs=SIZES)
    with pytest.raises(MissingCostError):
        tiny(gym.make("Pendulum-v1"), use_feedback=False).learn(10)
