"""What every wrapper owes: rebuilding from the spec, pickling, copying, info keys, examples that run."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from wrapper_toys import Corridor, Scripted, forward, play, recovery, risk

from safe_wrappers import (
    ActionMask,
    CostFromFunction,
    CostFromInfo,
    CostMonitor,
    CostPenalty,
    FromSixTuple,
    RecoveryFilter,
    TerminateOnViolation,
    ToSixTuple,
    Transitions,
    info,
)

gym.register("toy/Corridor-v0", entry_point=Corridor, max_episode_steps=8)


def speed_cost(obs, action, next_obs, info):
    return float(abs(next_obs[0] - obs[0]))


STACKS = {
    "monitor": lambda env: CostMonitor(env, missing_cost="zero"),
    "function": lambda env: CostMonitor(CostFromFunction(env, speed_cost)),
    "key": lambda env: CostFromInfo(env, info.VIOLATION),
    "penalty": lambda env: CostPenalty(env, penalty=3.0),
    "termination": TerminateOnViolation,
    "dialects": lambda env: FromSixTuple(ToSixTuple(env)),
    "filter": lambda env: CostMonitor(RecoveryFilter(env, risk, recovery, 0.5)),
    "mask": lambda env: ActionMask(RecoveryFilter(env, risk, recovery, 0.5), risk, 0.5, actions=[[1.0]]),
}


def actions_for(env, n=8):
    return [0] * n if isinstance(env.action_space, gym.spaces.Discrete) else forward(n)


def outcomes(steps):
    return repr(list(steps))


@pytest.fixture(params=STACKS, name="env")
def _env(request):
    return STACKS[request.param](gym.make("toy/Corridor-v0"))


@pytest.mark.filterwarnings("ignore:.*replaces info.*:UserWarning")
def test_make_rebuilds_the_stack_from_its_spec(env):
    rebuilt = gym.make(env.spec)
    assert str(rebuilt) == str(env)
    assert outcomes(play(rebuilt, actions_for(env))) == outcomes(play(env, actions_for(env)))


@pytest.mark.filterwarnings("ignore:.*replaces info.*:UserWarning")
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_go_on_as_the_original_does(env, clone):
    actions = actions_for(env)
    play(env, actions[:4])
    twin = clone(env)
    assert outcomes(map(env.step, actions[4:])) == outcomes(map(twin.step, actions[4:]))


def test_the_spec_shares_the_model_instead_of_copying_it():
    class Model:
        def risk(self, obs, action):
            return risk(obs, action)

        def __deepcopy__(self, memo):
            raise AssertionError("the model was copied")

    env = CostMonitor(RecoveryFilter(gym.make("toy/Corridor-v0"), Model().risk, recovery, 0.5))
    rebuilt = gym.make(env.spec)
    assert rebuilt.env.risk is env.env.risk
    assert rebuilt.spec is not None


def test_wrappers_do_not_write_into_the_environments_info():
    shared = {"cost": 0.0}
    env = Scripted([shared])
    env.step = lambda action: (np.zeros(1, np.float32), 1.0, True, False, shared)
    stack = CostMonitor(CostPenalty(CostFromInfo(env, info.COST), 1.0))
    assert set(play(stack, [0])[0][-1]) > {"cost"}
    assert set(shared) == {"cost"}


def test_info_readers():
    assert info.read_cost({"cost": np.float32(0.5)}) == 0.5
    assert info.read_violation({"cost": 1.0, "constraint_violation": False}) is False
    assert info.read_violation({"cost": 1.0}) is True
    assert info.read_violation({}, missing_cost="zero") is False
    with pytest.raises(KeyError, match=r"keys: \['a'\].*CostFromFunction.*missing_cost='zero'"):
        info.read_cost({"a": 1})


def rows(n, **changes):
    parts = {
        "observations": np.arange(n, dtype=float)[:, None], "actions": np.zeros((n, 2)),
        "next_observations": np.ones((n, 1)), "costs": np.ones(n), "violations": np.ones(n),
        "terminals": np.zeros(n),
    }  # fmt: skip
    return Transitions(**{**parts, **changes})


def test_transitions():
    both = Transitions.concatenate([rows(2), rows(3)])
    assert len(both) == 5 and both.n_violations == 5
    assert both.rows(slice(1, 3)).observations.tolist() == [[1.0], [0.0]]
    box = gym.spaces.Box(-9, 9, (1,)), gym.spaces.Box(-1, 1, (2,))
    both.with_env_id("a/B-v0").check_spaces(*box)
    with pytest.raises(ValueError, match=r"actions: expected rows of shape \(1,\).*'a/B-v0'"):
        both.with_env_id("a/B-v0").check_spaces(box[0], box[0])
    with pytest.raises(ValueError, match="entries"):
        both.check_spaces(gym.spaces.Dict(x=box[0]), box[1])
    for changes, message in [
        ({"actions": np.zeros((3, 2))}, "3 rows"),
        ({"costs": [-1, 0]}, "finite and >= 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            rows(2, **changes)
    with pytest.raises(ValueError, match="no transitions"):
        rows(0).check_spaces(*box)
    with pytest.raises(ValueError, match="nothing to concatenate"):
        Transitions.concatenate([])
