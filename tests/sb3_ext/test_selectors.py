"""Action selectors on hand-made critics: what is kept, what is chosen, and in which proportions."""

import itertools

import numpy as np
import pytest
import torch as th

from sb3_ext import RejectionSampling, ThresholdRecovery

LIMIT = 0.5


def risk(obs, actions):
    """The first action itself, plus the observation."""
    return (actions[:, :1] + obs[:, :1]).detach()


class Fixed:
    """Recovery policy that always answers -0.9, and counts its calls."""

    calls = 0

    def act(self, obs, deterministic):
        self.calls += 1
        return th.full((len(obs), 2), -0.9)


def no_candidates(n):
    raise AssertionError("no candidate is needed here")


def candidates(*rows, density=None):
    """``propose`` with the given first actions for each observation; rows are candidates."""
    actions = th.tensor(rows, dtype=th.float32)
    log_density = th.zeros(actions.shape) if density is None else th.log(th.tensor(density))[:, None].expand_as(actions)

    def propose(n):
        assert n == len(rows)
        return th.stack([actions, th.zeros_like(actions)], dim=-1), log_density

    return propose


def first(*values):
    """Proposed actions, one per observation."""
    return th.tensor([[value, 0.0] for value in values])


ORIGIN = th.zeros(1, 1)


def test_threshold_recovery_replaces_exactly_the_risky_actions():
    recovery = Fixed()
    selector = ThresholdRecovery(risk, recovery, LIMIT)
    obs = th.tensor([[0.0], [0.2], [0.0]])
    chosen, refused = selector.select(obs, first(0.4, 0.4, 0.5), no_candidates, deterministic=True)
    assert refused.tolist() == [False, True, False]  # a risk at the limit is accepted
    assert th.equal(chosen, th.stack([first(0.4)[0], th.tensor([-0.9, -0.9]), first(0.5)[0]]))


def test_threshold_recovery_leaves_the_recovery_policy_alone_while_all_is_safe():
    recovery = Fixed()
    ThresholdRecovery(risk, recovery, LIMIT).select(ORIGIN, first(0.1), no_candidates, deterministic=False)
    assert recovery.calls == 0


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_safe_proposal_is_kept(deterministic):
    selector = RejectionSampling(risk, LIMIT, 3)
    chosen, refused = selector.select(ORIGIN, first(0.5), no_candidates, deterministic)
    assert chosen.tolist() == [[0.5, 0.0]] and not refused.any()


@pytest.mark.parametrize("choice", ["density", "risky"])
def test_deterministic_keeps_a_safe_proposal_whatever_the_choice(choice):
    selector = RejectionSampling(risk, LIMIT, 3, choice)
    chosen, _ = selector.select(ORIGIN, first(0.2), no_candidates, deterministic=True)
    assert chosen.tolist() == first(0.2).tolist()


@pytest.mark.parametrize(
    ("choice", "deterministic"), list(itertools.product(["policy", "density", "risky"], [True, False]))
)
def test_only_safe_candidates_are_chosen_for_each_observation(choice, deterministic):
    selector = RejectionSampling(risk, LIMIT, 4, choice)
    propose = candidates([0.9, 0.1], [0.2, 0.9], [0.8, 0.8], [0.3, -0.2])
    obs = th.tensor([[0.0], [0.35]])
    for _ in range(30):
        chosen, refused = selector.select(obs, first(0.9, 0.9), propose, deterministic)
        assert refused.tolist() == [True, True]
        assert chosen[0, 0].item() in first(0.2, 0.3)[:, 0].tolist()
        assert chosen[1, 0].item() in first(0.1, -0.2)[:, 0].tolist()


@pytest.mark.parametrize("choice", ["policy", "density", "risky"])
def test_without_a_safe_candidate_the_least_risky_is_taken(choice):
    selector = RejectionSampling(risk, LIMIT, 3, choice)
    chosen, refused = selector.select(ORIGIN, first(0.9), candidates([0.8], [0.6], [0.7]), deterministic=False)
    assert np.isclose(chosen[0, 0].item(), 0.6) and refused.all()


def frequencies(selector, propose, proposed, n=3000):
    """How often each first action is chosen."""
    chosen = [selector.select(ORIGIN, proposed(), propose, deterministic=False)[0][0, 0].item() for _ in range(n)]
    values, counts = np.unique(np.round(chosen, 3), return_counts=True)
    return dict(zip(values.tolist(), (counts / n).tolist(), strict=True))


def test_density_choice_is_proportional_to_the_density_of_the_safe_candidates():
    propose = candidates([0.1], [0.9], [0.3], [0.4], density=[1.0, 10.0, 3.0, 6.0])
    found = frequencies(RejectionSampling(risk, LIMIT, 4, "density"), propose, lambda: first(0.0))
    assert found.keys() == {0.1, 0.3, 0.4}
    assert np.allclose([found[0.1], found[0.3], found[0.4]], [0.1, 0.3, 0.6], atol=0.04)


def test_risky_choice_takes_the_riskiest_safe_candidate():
    propose = candidates([0.1], [0.9], [0.3], [0.499], density=[5.0, 1.0, 5.0, 1.0])
    assert frequencies(RejectionSampling(risk, LIMIT, 4, "risky"), propose, lambda: first(0.0), 50) == {0.499: 1.0}


def test_policy_choice_is_a_sample_of_equation_3():
    """Policy: a = -0.5, 0, 0.5 with p = 0.2, 0.3, 0.1 are safe, 0.8 with p = 0.4 is not."""
    actions, probabilities = th.tensor([-0.5, 0.0, 0.5, 0.8]), th.tensor([0.2, 0.3, 0.1, 0.4])

    def draw(n):
        return actions[th.multinomial(probabilities, n, replacement=True)]

    def propose(n):
        drawn = draw(n)
        return th.stack([drawn, th.zeros(n)], dim=1)[:, None], th.zeros(n, 1)

    found = frequencies(RejectionSampling(risk, LIMIT, 25), propose, lambda: first(draw(1).item()), 6000)
    assert found.keys() == {-0.5, 0.0, 0.5}
    assert np.allclose([found[-0.5], found[0.0], found[0.5]], np.array([2, 3, 1]) / 6, atol=0.03)


def test_dict_observations():
    def dict_risk(obs, actions):
        return risk(obs["here"], actions)

    selector = RejectionSampling(dict_risk, LIMIT, 2)
    obs = {"here": th.tensor([[0.0], [0.4]])}
    chosen, _ = selector.select(obs, first(0.9, 0.9), candidates([0.2, 0.2], [0.8, 0.05]), deterministic=True)
    assert np.allclose(chosen[:, 0], [0.2, 0.05])


@pytest.mark.parametrize(
    ("kwargs", "message"), [({"choice": "best"}, "choice must be"), ({"n_candidates": 0}, "n_candidates must be >= 1")]
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RejectionSampling(risk, LIMIT, **kwargs)
