"""The step of CPO against numbers worked out by hand, the paper's formulas and brute force."""

import numpy as np
import pytest
from scipy.optimize import minimize

from sb3_ext.common.trust_region import trust_region_step
from sb3_ext.cpo import acceptable


def solve(h, g, b, c, delta):
    """The step ``x`` of the problem given by its matrices, with what ``trust_region_step`` says."""
    inverse, b = np.linalg.inv(h), np.atleast_2d(b)
    step = trust_region_step(g @ inverse @ g, b @ inverse @ g, b @ inverse @ b.T, np.atleast_1d(c), delta)
    return inverse @ (step.reward * g + step.costs @ b), step


PLANE = np.eye(2)  # with delta = 2 the trust region is the disc of radius 2
EAST, NORTH = np.array([1.0, 0.0]), np.array([0.0, 1.0])
BY_HAND = {
    "no limit near": (EAST, -5.0, [2.0, 0.0], True, ()),
    "the limit touches the region": (EAST, -2.0, [2.0, 0.0], True, ()),
    "cut short": (EAST, -1.0, [1.0, 0.0], True, (0,)),
    "the limit does not matter to the objective": (NORTH, -1.0, [2.0, 0.0], True, ()),
    "along a limit that is met exactly": ((EAST + NORTH), 0.0, [np.sqrt(2), -np.sqrt(2)], True, (0,)),
    "back below the limit, with what is left for the objective": (NORTH, 1.0, [np.sqrt(3), -1.0], True, (0,)),
    "just reachable": (EAST, 2.0, [-2.0, 0.0], True, (0,)),
    "out of reach": (EAST, 3.0, [-2.0, 0.0], False, ()),
    "out of reach, to the side": (NORTH, 3.0, [0.0, -2.0], False, ()),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_numbers_by_hand(name, unit):
    b, c, expected, feasible, active = BY_HAND[name]
    x, step = solve(PLANE, EAST, unit * b, unit * c, delta=2.0)
    assert np.allclose(x, expected, atol=1e-6) and step.feasible == feasible
    if name != "the limit touches the region":
        assert step.active == active


def test_two_limits_by_hand():
    """x <= 1 and y <= 0.5 for an objective to the north-east: the corner."""
    x, step = solve(PLANE, EAST + NORTH, np.stack([EAST, NORTH]), np.array([-1.0, -0.5]), delta=2.0)
    assert np.allclose(x, [1.0, 0.5], atol=1e-3) and step.active == (0, 1)
    x, step = solve(PLANE, EAST, np.stack([NORTH, EAST]), np.array([1.0, -1.5]), delta=2.0)
    assert np.allclose(x, [1.5, -1.0], atol=1e-3) or np.isclose(x[0], 1.5)  # anywhere on x = 1.5 below y = -1


def test_contradicting_limits_are_infeasible_and_weighted_by_their_excess():
    x, step = solve(PLANE, NORTH, np.stack([EAST, -EAST]), np.array([0.3, 0.1]), delta=2.0)
    assert not step.feasible and np.allclose(x, [-2.0, 0.0])
    assert np.array_equal(step.multipliers, [0.0, 0.0])


def test_a_limit_without_gradient_is_left_out_of_the_step():
    for c, feasible in ((-1.0, True), (1.0, False)):
        x, step = solve(PLANE, EAST, np.zeros(2), c, delta=2.0)
        assert np.allclose(x, [2.0, 0.0]) and step.feasible == feasible


def test_the_same_limit_twice_changes_nothing():
    once, _ = solve(PLANE, EAST, EAST + NORTH, -0.3, delta=2.0)
    twice, step = solve(PLANE, EAST, np.stack([EAST + NORTH, 5.0 * (EAST + NORTH)]), np.array([-0.3, -1.5]), delta=2.0)
    assert np.allclose(once, twice, atol=1e-6) and step.feasible


def problem(rng, n_limits):
    size = rng.integers(max(2, n_limits), 6)
    root = rng.normal(size=(size, size))
    h, g = root @ root.T + 0.1 * np.eye(size), rng.normal(size=size)
    b = rng.normal(size=(n_limits, size)) * 10.0 ** rng.uniform(-2, 2, (n_limits, 1))
    c = 0.3 * rng.normal(size=n_limits) * np.linalg.norm(b, axis=1)
    return h, g, b, c, 10.0 ** rng.uniform(-2, 0)


@pytest.mark.parametrize("seed", range(30))
def test_multipliers_are_those_of_the_papers_equations(seed):
    """Equations (11) and (12): lambda and nu of one limit that is active."""
    h, g, b, c, delta = problem(np.random.default_rng(seed), 1)
    inverse = np.linalg.inv(h)
    q, r, s = g @ inverse @ g, (b @ inverse @ g)[0], (b @ inverse @ b.T)[0, 0]
    x, step = solve(h, g, b, c, delta)
    if step.active:
        price = np.sqrt((q - r**2 / s) / (2.0 * delta - c[0] ** 2 / s))
        nu = max((price * c[0] + r) / s, 0.0)
        assert np.allclose(x, inverse @ (g - nu * b[0]) / price, rtol=1e-5, atol=1e-8)
        assert np.isclose(step.multipliers[0], nu, rtol=1e-5) and np.isclose(step.reward, 1.0 / price, rtol=1e-5)


@pytest.mark.parametrize("n_limits", [1, 2, 3])
@pytest.mark.parametrize("seed", range(25))
def test_brute_force_finds_nothing_better(seed, n_limits):
    rng = np.random.default_rng(seed)
    h, g, b, c, delta = problem(rng, n_limits)
    x, step = solve(h, g, b, c, delta)
    lengths = np.linalg.norm(b, axis=1)
    found = [general_solver(h, g, b / lengths[:, None], c / lengths, delta, rng) for _ in range(4)]
    found = [gain for gain in found if gain is not None]
    if step.feasible:
        assert np.all((c + b @ x) / lengths < 1e-6) and x @ h @ x < 2.0 * delta * (1 + 1e-6)
        assert all(gain < g @ x + 1e-4 for gain in found)
    else:
        assert not found and np.isclose(x @ h @ x, 2.0 * delta)


def general_solver(h, g, b, c, delta, rng):
    result = minimize(
        lambda x: -g @ x, 0.1 * rng.normal(size=len(g)), jac=lambda x: -g, method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
        constraints=[
            {"type": "ineq", "fun": lambda x: 2.0 * delta - x @ h @ x},
            {"type": "ineq", "fun": lambda x: -(c + b @ x)},
        ],
    )  # fmt: skip
    inside = np.all(c + b @ result.x < 1e-6) and result.x @ h @ result.x < 2.0 * delta + 1e-6
    return g @ result.x if result.success and inside else None


@pytest.mark.parametrize(
    ("gain", "changes", "excess", "feasible", "expected"),
    [
        (0.1, [0.0], [-0.5], True, True),
        (-0.1, [-0.4], [-0.5], True, False),  # the limit is met, so the objective must rise
        (0.1, [0.6], [-0.5], True, False),  # more than what is left
        (-0.1, [-0.1], [0.5], True, True),  # the way back may cost reward
        (0.1, [0.1], [0.5], True, False),
        (-0.1, [-0.1], [0.5], False, True),
        (0.1, [0.1], [0.5], False, False),
        (-0.1, [-0.2, 0.1], [0.5, 0.1], False, True),  # together they fall
        (-0.1, [-0.2, 0.1], [0.5, 0.1], True, False),
        (-0.1, [-0.2, 0.1], [0.5, -0.3], True, True),
    ],
)
def test_what_the_line_search_accepts(gain, changes, excess, feasible, expected):
    before = np.array([0.3, *(0.7 for _ in changes)])
    after = before + np.array([gain, *changes])
    assert acceptable(before, after, np.array(excess), feasible) == expected
