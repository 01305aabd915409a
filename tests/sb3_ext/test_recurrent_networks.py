"""The recurrent agent's network: sizes, recurrence, densities, what it reads of an observation."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from recurrent_toys import ACTIONS, SIZES
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

from safe_wrappers.feedback import FEEDBACK
from sb3_ext.recurrent.networks import (
    GaussianActor,
    Temperature,
    Trunk,
    ValueHeads,
    masked_mean,
    mlp,
    nature_cnn,
    squared_error,
)
from sb3_ext.recurrent.observations import ObservationLayout, is_image, to_bytes
from sb3_ext.recurrent.policy import RecurrentPolicy

PREVIOUS = {name: spaces.Box(-np.inf, np.inf, (1,), np.float32) for name in FEEDBACK}
DOGGO = spaces.Dict({
    "depth": spaces.Box(0.0, 1.0, (50, 50, 1), np.float32),
    "proprioception": spaces.Box(-np.inf, np.inf, (44,), np.float32),
    **PREVIOUS,
})  # fmt: skip
TABLE_2 = {"cnn": 1.4e5, "embedding": 1.3e5, "gru": 4.3e5, "policy": 3.5e5, "each head": 3.5e5, "total": 2.1e6}


def policy(space=DOGGO, actions=ACTIONS, **kwargs):
    return RecurrentPolicy(space, actions, lambda _: 1e-3, **kwargs)


@pytest.fixture(scope="module")
def doggo():
    return policy(actions=spaces.Box(-1.0, 1.0, (12,), np.float32))


@pytest.mark.parametrize("row", TABLE_2)
def test_parameters_of_table_2(row, doggo):
    assert doggo.parameter_table()[row] == pytest.approx(TABLE_2[row], rel=0.1)


def test_parameters_counted_by_hand(doggo):
    table = doggo.parameter_table()
    assert table["gru"] == 3 * (302 * 256 + 256 * 256 + 2 * 256) == 430_080
    assert table["cnn"] == (64 * 64 + 64) + (16 * 64 * 64 + 64) + (9 * 64 * 128 + 128)
    assert table["total"] == sum(table[row] for row in ("cnn", "embedding", "gru", "policy")) + 3 * table["each head"]
    assert table["total"] == sum(p.numel() for p in doggo.optimizer.param_groups[0]["params"])


# ---------------------------------------------------------------------- recurrence


def random_sequence(length=9, batch=5, size=3):
    starts = th.rand(length, batch) < 0.25
    return th.randn(length, batch, size), th.randn(batch, 8), starts


def test_hidden_states_are_reset_at_episode_starts():
    trunk = Trunk(ObservationLayout({}, {"x": 3}), (4, 4, 4), 8, 8)
    x, hidden, starts = random_sequence()
    assert starts[1:].any() and not starts.all(dim=1).any()
    outputs, last = trunk({"x": x.flatten(0, 1)}, hidden, starts)
    cell = th.nn.GRUCell(3, 8)  # an oracle that goes step by step
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, name).data = getattr(trunk.gru, f"{name}_l0").data
    state = hidden
    for t in range(len(x)):
        state = cell(x[t], th.where(starts[t, :, None], 0.0, state))
        th.testing.assert_close(outputs[t], state)
    th.testing.assert_close(last, state)


def test_nothing_flows_back_over_an_episode_start():
    trunk = Trunk(ObservationLayout({}, {"x": 3}), (4, 4, 4), 8, 8)
    x = th.randn(6, 2, 3, requires_grad=True)
    starts = th.zeros(6, 2, dtype=th.bool)
    starts[3, 0] = True
    trunk({"x": x.flatten(0, 1)}, th.zeros(2, 8), starts)[0][5].sum().backward()
    assert (x.grad[:3, 0] == 0).all() and (x.grad[3:, 0] != 0).any()
    assert (x.grad[0, 1] != 0).any()


# ---------------------------------------------------------------------- heads


def test_densities_are_those_of_sb3():
    actor, latent, noise = GaussianActor(6, (8,), 2), th.randn(4, 6), th.randn(4, 2)
    actions, log_prob = actor(latent, noise)
    mean, log_std = actor.network(latent).chunk(2, dim=-1)
    theirs = SquashedDiagGaussianDistribution(2).proba_distribution(mean, log_std)
    th.testing.assert_close(log_prob, theirs.log_prob(actions, mean + log_std.exp() * noise))
    th.testing.assert_close(actor.mode(latent), theirs.mode())


def test_each_head_is_a_network_of_its_own():
    heads, latent, actions = ValueHeads(6, (8, 8), 2), th.randn(5, 4, 6), th.randn(5, 4, 2)
    values = heads(latent, actions)
    assert values.shape == (3, 5, 4)
    inputs = th.cat([latent[1, 2], actions[1, 2]])
    for head, network in zip(values, heads.networks, strict=True):
        th.testing.assert_close(head[1, 2], network(inputs)[0])
    assert len({head[0, 0].item() for head in values}) == 3


def test_lecun_normal_keeps_the_variance_through_deep_selu_networks():
    x = mlp(400, [400] * 8, 1)[:-1](th.randn(500, 400)).detach()
    assert abs(x.mean().item()) < 0.1 and 0.8 < x.std().item() < 1.2


def test_loss_by_hand():
    values, targets = th.zeros(3, 2, 1), th.tensor([[[1.0], [9.0]], [[2.0], [9.0]], [[3.0], [9.0]]])
    mask = th.tensor([[1.0], [0.0]])
    assert squared_error(values, targets, mask).item() == pytest.approx(0.5 * (1 + 4 + 9))
    assert masked_mean(th.tensor([[4.0], [100.0]]), mask).item() == 4.0


@pytest.mark.parametrize("entropy, rises", [(-2.0, True), (0.5, False)])
def test_temperature_rises_while_the_entropy_is_too_low(entropy, rises):
    temperature = Temperature(0.1, target_entropy=-1.0, learning_rate=0.01)
    temperature.update(entropy)
    assert temperature.value == pytest.approx(0.1 * np.exp(0.01 if rises else -0.01), rel=1e-5)


# ---------------------------------------------------------------------- observations


def test_images_are_the_same_in_bytes_and_floats_and_with_channels_first_or_last():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40, 38, 3), dtype=np.uint8)
    spaces_and_images = [
        (spaces.Box(0, 255, (40, 38, 3), np.uint8), pixels),
        (spaces.Box(0.0, 1.0, (40, 38, 3), np.float32), (pixels / 255.0).astype(np.float32)),
        (spaces.Box(0, 255, (3, 40, 38), np.uint8), pixels.transpose(0, 3, 1, 2)),
    ]
    found = []
    for space, images in spaces_and_images:
        layout = ObservationLayout.of(space, use_feedback=False)
        found.append(layout.tensors(layout.arrays(images), "cpu")["observation"])
    assert found[0].shape == (5, 3, 40, 38)
    th.testing.assert_close(found[0], th.as_tensor(pixels).permute(0, 3, 1, 2) / 255.0)
    assert th.equal(found[0], found[1]) and th.equal(found[0], found[2])


def test_floats_are_rounded_to_the_nearest_of_256_levels():
    assert to_bytes(np.array([0.0, 1.0, 0.5, 1.4 / 255, 1.6 / 255, -3.0, 7.0])).tolist() == [0, 255, 128, 1, 2, 0, 255]


@pytest.mark.parametrize(
    "space, image",
    [
        (spaces.Box(0.0, 1.0, (50, 50, 1), np.float32), True),
        (spaces.Box(0, 255, (3, 50, 60), np.uint8), True),
        (spaces.Box(0.0, 2.0, (50, 50, 1), np.float32), False),  # no brightness
        (spaces.Box(0.0, 1.0, (50, 50), np.float32), False),
        (spaces.Box(0.0, 1.0, (50, 50, 50), np.float32), False),  # no channels
        (spaces.Box(0, 9, (50, 50, 1), np.int64), False),
    ],
)
def test_what_is_an_image(space, image):
    assert is_image(space) is image


def test_without_images_there_is_no_cnn_and_with_two_there_are_two():
    vectors = policy(spaces.Dict({"x": spaces.Box(-1.0, 1.0, (3, 2)), **PREVIOUS}), **SIZES)
    assert vectors.trunk.embedding is None and vectors.parameter_table()["cnn"] == 0
    assert vectors.trunk.gru.input_size == 6 + 2
    eye = spaces.Box(0.0, 1.0, (36, 36, 1), np.float32)
    both = policy(spaces.Dict({"left": eye, "right": eye}), use_feedback=False, **SIZES)
    assert len(both.trunk.cnns) == 2 and both.trunk.gru.input_size == SIZES["cnn_embedding"]
    alone = policy(eye, use_feedback=False, **SIZES)
    action, state = alone.predict(np.zeros((36, 36, 1), np.float32))
    assert action.shape == (1,) and state[0].shape == (1, 8)


def test_feedback_is_demanded_or_ignored():
    with pytest.raises(ValueError, match=r"safe_wrappers\.PreviousFeedback"):
        policy(spaces.Box(-1.0, 1.0, (3,)))
    with pytest.raises(ValueError, match=r"no \['previous_cost'\]"):
        policy(spaces.Dict({"x": spaces.Box(-1.0, 1.0, (3,)), FEEDBACK[0]: PREVIOUS[FEEDBACK[0]]}))
    ablation = policy(use_feedback=False, **SIZES)
    assert ablation.trunk.gru.input_size == SIZES["cnn_embedding"] + 44
    obs = DOGGO.sample()
    changed = {**obs, **{name: obs[name] + 100.0 for name in FEEDBACK}}
    actions = [agent.predict(o, deterministic=True)[0] for agent in (ablation,) for o in (obs, changed)]
    assert np.array_equal(*actions)


@pytest.mark.parametrize(
    "space, kwargs, message",
    [
        (spaces.Discrete(3), {}, "Box or a Dict of Boxes"),
        (spaces.Dict({"x": spaces.Discrete(3)}), {}, "got Discrete.3. for 'x'"),
        (spaces.Box(0.0, 1.0, (20, 50, 1)), {}, "at least 36 pixels"),
        (spaces.Dict(PREVIOUS), {}, "nothing is left"),
        (spaces.Box(0.0, 1.0, (3,)), {"gru_size": 0}, "must be >= 1"),
        (spaces.Box(0.0, 1.0, (3,)), {"cnn_channels": (1, 2)}, "must name 3 layers"),
        (spaces.Box(0.0, 1.0, (3,)), {"hidden": ()}, "hidden at least one"),
    ],
)
def test_bad_spaces_and_sizes(space, kwargs, message):
    with pytest.raises(ValueError, match=message):
        policy(space, use_feedback=False, **kwargs)


def test_the_nature_cnn_counts_its_outputs():
    network, n_outputs = nature_cnn((50, 50, 1), (32, 64, 64))
    assert network(th.zeros(2, 1, 50, 50)).shape == (2, n_outputs) == (2, 256)
    assert sum(p.numel() for p in network.parameters()) == 71_840
