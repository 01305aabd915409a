"""Actors in other processes: one in lock-step is the single process, a dead one is replaced, the learner resumes."""

import io
import os
import pickle
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import assert_same_weights, differing, tensors
from recurrent_toys import Camera, Counter, tiny, vec
from stable_baselines3.common.callbacks import BaseCallback

from safe_wrappers.feedback import PreviousFeedback
from sb3_ext.recurrent import ray_actors
from sb3_ext.recurrent.actors import Actor, acting_weights, ingest, vectorized
from sb3_ext.recurrent.ray_actors import import_ray, learn_distributed
from sb3_ext.recurrent.recurrent_sac_lag import RecurrentSACLag


def make_env():
    return PreviousFeedback(Counter())


def make_camera():
    return PreviousFeedback(Camera())


def rows(model):
    return tensors({"rows": [c.view(np.uint8) for c in model.replay_buffer._rows.chunks],
                    "hidden": model.replay_buffer._hidden.chunks, "written": model.replay_buffer._written,
                    "counters": [model.num_timesteps, model.n_episodes, model._n_updates, model._episode_num],
                    "costs": list(model.ep_cost_buffer), "price": model.multiplier.value})  # fmt: skip


# ---------------------------------------------------------------------- without Ray


def actor_of(model, index=0, n_envs=1, **kwargs):
    file = io.BytesIO()
    model.save(file)
    arguments = {"seed": model.seed, **kwargs}
    return Actor(type(model), file.getvalue(), make_env, n_envs, index, **arguments)


def test_an_actor_sends_what_it_has_lived_once():
    model = tiny()
    actor = actor_of(model, n_envs=2)
    model.reset_replay(4)
    model._setup_learn(100)
    first = actor.collect(acting_weights(model), 0, 8)
    second = actor.collect(acting_weights(model), 16, 8)
    assert first.n_steps == second.n_steps == 16 and len(first.streams) == 2
    assert [len(s[0]) for s in first.streams] == [9, 9]  # one episode of 7 steps ended: its last observation
    for push in (first, second):
        ingest(model, push._replace(actor=1), 2, None)
    assert model.replay_buffer._written.tolist() == [0, 0, 18, 18]  # episodes of 7 and 4 steps, and 5 of the third
    shown = model.replay_buffer._rows.chunks[0]["obs"]["observation"][2, :18, 0]
    assert shown.tolist() == [*range(8), *range(100, 105), *range(200, 205)]
    assert model.num_timesteps == 32 and model.n_episodes == 4
    assert [round(c, 6) for c in model.ep_cost_buffer] == [2.8, 2.8, 1.0, 1.0]
    assert [e["l"] for e in model.ep_info_buffer] == [7, 7, 4, 4]


def test_actors_use_the_weights_that_they_are_sent_and_noise_of_their_own():
    model = tiny(learning_starts=0)
    with th.no_grad():
        for p in model.policy.actor.parameters():
            p.zero_()
        model.policy.actor.network[-1].bias[:] = th.tensor([1.0, -20.0])  # mean 1, no noise
    actor = actor_of(tiny(learning_starts=0))
    sent = actor.collect(acting_weights(model), 100, 4).streams[0][0]["action"]
    np.testing.assert_allclose(sent, np.tanh(1.0), rtol=1e-5)
    model.policy.actor.network[-1].bias.data[1] = 0.0
    actions = [
        actor_of(model, i, seed=s).collect(acting_weights(model), 100, 4).streams[0][0]["action"].tolist()
        for i, s in ((0, 0), (1, 1), (2, 2), (1, 1))
    ]
    assert actions[1] == actions[3] and actions[0] != actions[1] != actions[2]


def test_environments_of_an_actor():
    assert vectorized(make_env, 3).num_envs == 3
    assert vectorized(lambda: vec(n_envs=2), 2).num_envs == 2
    with pytest.raises(ValueError, match="VecEnv of 2 environments, expected envs_per_actor=3"):
        vectorized(lambda: vec(n_envs=2), 3)


def test_another_number_of_streams_is_named():
    model = tiny()
    model.reset_replay(4)
    with pytest.raises(ValueError, match="streams of 4 environments, there are 1: call reset_replay"):
        model.learn(10)
    model.reset_replay()
    assert model.learn(10).replay_buffer.size() > 0


def test_without_ray_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r'pip install "sb3-safe\[ray\]"'):
        import_ray()
    with pytest.raises(gym.error.DependencyNotInstalled):
        learn_distributed(tiny(), make_env, 10)


class LosingRay(SimpleNamespace):
    """As much of Ray as the crew sees: what the first actor sends is lost, as often as it is told."""

    def __init__(self, error, losses):
        exceptions = {name: type(name, (Exception,), {}) for name in ("RayActorError", "ObjectLostError")}
        super().__init__(exceptions=SimpleNamespace(**exceptions), started=[], killed=[], losses=losses)
        self.error = exceptions[error]

    def remote(self, kind):
        return SimpleNamespace(remote=self.start)

    def start(self, *arguments):
        name = f"actor {len(self.started)}"
        self.started.append(name)
        collect = SimpleNamespace(remote=lambda *_: (name, object()))
        return SimpleNamespace(name=name, collect=collect)

    def put(self, value):
        return value

    def wait(self, pending, num_returns):
        return pending, []

    def get(self, future):
        if self.losses:
            self.losses -= 1
            raise self.error
        return SimpleNamespace(actor=0, sender=future[0])

    def kill(self, actor):
        self.killed.append(actor.name)


@pytest.mark.parametrize("error", ["RayActorError", "ObjectLostError"])
def test_an_actor_out_of_reach_is_ended_and_replaced(error, monkeypatch):
    fake = LosingRay(error, losses=2)
    monkeypatch.setattr(ray_actors, "import_ray", lambda: fake)
    crew, heard = ray_actors.Crew(tiny(), make_env, 1, 1, 5), []
    for _ in range(3):
        crew.ask()
        heard += crew.hear(everyone=True)
    assert fake.killed == ["actor 0", "actor 1"] and [push.sender for push in heard] == ["actor 2"]
    fake.losses = 3
    for _ in range(2):
        crew.ask()
        crew.hear(everyone=True)
    crew.ask()
    with pytest.raises(fake.error):
        crew.hear(everyone=True)


@pytest.mark.parametrize(
    "model, kwargs, message",
    [
        (lambda: tiny(), {"num_actors": 0}, "num_actors must be >= 1, got 0"),
        (lambda: tiny(), {"envs_per_actor": -1}, "envs_per_actor must be >= 1"),
        (lambda: tiny(), {"steps_per_push": 0}, "steps_per_push must be >= 1"),
        (lambda: tiny(train_freq=(1, "episode")), {}, "train_freq must be in steps"),
        (lambda: tiny(vec(normalize=True)), {}, "VecNormalize cannot be shared"),
    ],
)
def test_bad_arguments(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        learn_distributed(model(), make_env, 10, **kwargs)


# ---------------------------------------------------------------------- with Ray


@pytest.fixture(scope="module")
def ray():
    found = pytest.importorskip("ray")
    search = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    workers = {"env_vars": {"PYTHONPATH": search}}  # where they find this module and its toys
    found.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=workers)
    yield found
    found.shutdown()


def test_one_actor_in_lock_step_is_the_single_process(ray):
    single = tiny(vec(Camera, 2)).learn(96)
    apart = learn_distributed(tiny(vec(Camera, 2)), make_camera, 96, num_actors=1, envs_per_actor=2, lockstep=True)
    assert apart._n_updates == single._n_updates > 0
    assert_same_weights(single, apart)
    assert differing(rows(single), rows(apart)) == []
    pickle.dumps(apart.__dict__["replay_buffer"])
    # Here the streams went on without this process's environment: going on in it starts new episodes.
    written = apart.replay_buffer._written.copy()
    apart.learn(16, reset_num_timesteps=False)
    assert all(apart.replay_buffer.gather(np.arange(2), 10 * (written // 10)).episode_starts[written[0] % 10])


class Assassin:
    """A callback that kills the first actor while it collects, and stops when that has come back and sent twice."""

    def __init__(self, ray):
        self.ray, self.senders, self.returned, self.killed = ray, [], 0, False

    def __call__(self, local, _):
        self.senders.append(local["push"].actor)
        if not self.killed and self.senders.count(0) == 2:
            self.ray.kill(local["crew"].actors[0])
            self.killed = True
        if self.killed:
            time.sleep(0.1)  # a learner that waits leaves the processor to the actor that starts
        if local["crew"]._started[0] > 1:
            self.returned += self.senders[-1] == 0
        return self.returned < 2


def test_a_dead_actor_is_replaced_and_the_learner_resumes(ray, tmp_path):
    model, killer = tiny(make_env(), seed=3, buffer_size=400_000, gradient_steps=1), Assassin(ray)
    learn_distributed(model, make_env, 10**6, num_actors=2, envs_per_actor=2, steps_per_push=5, callback=killer)
    assert killer.returned == 2 and killer.senders.count(1) > 0
    assert model.num_timesteps == 10 * len(killer.senders) and model._n_updates > 0  # whatever was sent is there
    for i, n in enumerate(model.replay_buffer._written):
        shown, starts = (model.replay_buffer._rows.chunks[0][i, :n][name] for name in ("obs", "start"))
        numbers = shown["observation"][:, 0]
        assert n < model.replay_buffer._rows.chunk_rows
        assert (np.diff(numbers)[~starts[1:]] == 1.0).all()  # without a gap, except where an episode starts
        assert i >= 2 or (numbers == 0.0).sum() == 2  # the one that came back began again
    model.save_checkpoint(tmp_path)
    resumed = RecurrentSACLag.load_checkpoint(tmp_path)
    assert_same_weights(model, resumed)
    held = resumed.replay_buffer.size()
    learn_distributed(resumed, make_env, 40, num_actors=1, envs_per_actor=4, reset_num_timesteps=False)
    assert resumed.replay_buffer.size() > held and resumed._n_updates > model._n_updates
    assert resumed.num_timesteps >= model.num_timesteps + 40


class Dying(BaseCallback):
    """Saves a checkpoint at the sixth push, and dies."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def _on_step(self):
        if self.n_calls == 6:
            self.model.save_checkpoint(self.folder)
            raise KeyboardInterrupt
        return True


def test_a_learner_that_died_goes_on_from_what_its_callback_saved(ray, tmp_path):
    model = tiny(make_env(), seed=3)
    with pytest.raises(KeyboardInterrupt):
        learn_distributed(
            model, make_env, 10**6, num_actors=2, envs_per_actor=2, steps_per_push=5, callback=Dying(tmp_path)
        )
    resumed = RecurrentSACLag.load_checkpoint(tmp_path)
    assert resumed.num_timesteps == 60 and 0 < resumed._n_updates <= model._n_updates
    assert resumed.replay_buffer.n_envs == 4
    learn_distributed(
        resumed, make_env, 40, num_actors=2, envs_per_actor=2, steps_per_push=5, reset_num_timesteps=False
    )
    assert resumed.num_timesteps == 100 and resumed._n_updates > model._n_updates


def broken_env():
    raise RuntimeError("no such hall")


def test_an_actor_that_never_starts_is_an_error(ray, monkeypatch):
    monkeypatch.setattr(ray_actors, "MAX_FAILURES", 1)
    with pytest.raises(ray.exceptions.RayActorError, match="no such hall"):
        learn_distributed(tiny(), broken_env, 40, num_actors=1, envs_per_actor=1)
