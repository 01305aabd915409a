"""``RecurrentSACLag``: recurrent soft actor-critic with a Lagrangian limit on the cost of each step."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces

from sb3_ext.common.limits import check_probability
from sb3_ext.common.multipliers import Multiplier, make_multiplier
from sb3_ext.common.safe_algorithm import MissingCost
from sb3_ext.common.safety_critic import frozen
from sb3_ext.recurrent.networks import Temperature, masked_mean, squared_error
from sb3_ext.recurrent.policy import GRU_SIZE, RecurrentPolicy
from sb3_ext.recurrent.rollout import RecurrentOffPolicy
from sb3_ext.recurrent.sequence_buffer import SequenceBatch, SequenceReplayBuffer

LEARNING_RATE = 3e-4  # Table 3; the multiplier's, too


class RecurrentSACLag(RecurrentOffPolicy):
    r"""Recurrent SAC with a cost critic and a Lagrange multiplier (safe transfer, Algorithm 1 of appendix D).

    One trunk (CNN and GRU) feeds the policy, two return heads and a cost head. Sequences are replayed from the hidden
    state that the actor had. Defaults are those of Table 3.

    What the paper leaves open, and what is done here:

    - The losses of policy and heads are added up and one Adam step minimises the sum. The critics train the trunk; the
      policy reads it without training it, and is trained through heads that stand still.
    - The limit is on the cost of a step: the multiplier ascends on :math:`(1 - \gamma_{risk}) Q_c(s, \pi(s)) - c`.
      (Algorithm 1 prints :math:`Q_c` itself, and the reward in the cost's target: here it is the cost.)
    - The multiplier starts at 1 and is itself what is learned, projected to >= 0, as Algorithm 1 has it
      (``multiplier_kwargs={"space": "log"}``: its logarithm, which takes long to come back from near 0).
    - The discount is 0.99, and a time limit is bootstrapped through.
    - "4000 training steps per epoch": an epoch is 1000 steps of every environment (Table 3's longest episode).

    Updates begin with the first whole sequence. Going on in another environment: ``load(path, env=...)`` keeps weights,
    optimiser and multiplier; the replay buffer is not in the file. ``set_env(env, reset_replay=True)`` does the same
    in place, ``start_from(path)`` in a new model. Table 3's replay of 1e5 steps on each actor has no counterpart:
    actors keep nothing that they have sent.

    Args:
        policy: ``"MultiInputPolicy"``, ``"CnnPolicy"``, ``"MlpPolicy"`` (all are ``RecurrentPolicy``), or a subclass.
        env: as in SB3. Dict or Box observations; see ``safe_wrappers.PreviousFeedback``.
        learning_rate: a number or a schedule.
        buffer_size: steps in replay; see ``SequenceReplayBuffer`` for what happens where memory is short.
        learning_starts: steps before learning, with random actions unless the model has learned before.
        batch_size: sequences of an update.
        tau: rate of the target networks.
        gamma: discount of rewards.
        train_freq: as in SB3.
        gradient_steps: as in SB3.
        step_limit: highest mean cost of a step; None: no limit (cost has no price, the cost head is trained). ``load``
            takes another one, or None.
        gamma_risk: discount of costs, in [0, 1).
        ent_coef: entropy coefficient; ``"auto"`` or ``"auto_0.1"``: learned, from 1 or 0.1 on.
        target_entropy: for a learned coefficient; ``"auto"``: minus the number of entries of an action.
        horizon: transitions of a sequence.
        burn_in: transitions before them that only warm up the hidden state.
        use_feedback: whether the previous reward and cost are read.
        multiplier: ``"gradient"``, ``"pid"``, ``"schedule"`` or ``"fixed"``.
        multiplier_kwargs: its arguments. ``"gradient"`` learns the multiplier itself, with Table 3's rate, unless they
            say otherwise.
        max_grad_norm: bound on the norm of the gradient, of critics and policy each; None: none.
        missing_cost: what a step without ``info["cost"]`` means: ``"raise"`` or ``"zero"``.
        policy_kwargs: sizes of the network, see ``RecurrentPolicy``.
        **kwargs: SB3's further arguments (``seed``, ``device``, ``verbose``, ``tensorboard_log`` and so on).

    Raises:
        ValueError: for arguments out of range, other spaces, or a missing previous reward and cost.

    Examples:
        >>> import gymnasium as gym
        >>> from safe_wrappers import PreviousFeedback
        >>> env = PreviousFeedback(gym.make("safe_envs:safe/Navigation2-v0"))
        >>> sizes = {"gru_size": 16, "hidden": (32,)}
        >>> model = RecurrentSACLag("MultiInputPolicy", env, policy_kwargs=sizes, batch_size=4, horizon=5,
        ...                         train_freq=10, gradient_steps=2, learning_starts=20, buffer_size=10_000).learn(40)
        >>> obs, _ = env.reset()
        >>> action, state = model.predict(obs, state=None, episode_start=[True])
        >>> state[0].shape
        (1, 16)
    """

    parts: ClassVar[tuple[str, ...]] = ("multiplier", "temperature")

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = LEARNING_RATE,
        buffer_size: int = 2_000_000,
        learning_starts: int = 1000,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1000,
        gradient_steps: int = 4000,
        *,
        step_limit: float | None = 0.01,
        gamma_risk: float = 0.99,
        ent_coef: float | str = 0.005,
        target_entropy: float | str = "auto",
        horizon: int = 30,
        burn_in: int = 0,
        use_feedback: bool = True,
        multiplier: str = "gradient",
        multiplier_kwargs: dict[str, Any] | None = None,
        max_grad_norm: float | None = None,
        missing_cost: MissingCost = "raise",
        policy_kwargs: dict[str, Any] | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        self._start_counting(missing_cost)
        self.step_limit = step_limit
        self.gamma_risk, self.max_grad_norm = check_probability("gamma_risk", gamma_risk), max_grad_norm
        self.ent_coef, self.target_entropy = ent_coef, target_entropy
        self.horizon, self.burn_in, self.use_feedback = horizon, burn_in, use_feedback
        self.multiplier_name, self.multiplier_kwargs = multiplier, dict(multiplier_kwargs or {})
        _check_unsupported(kwargs)
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        # Fail early, before environments are made.
        self._check_limits()
        self._make_multiplier()
        _initial_temperature(ent_coef)
        _target_entropy(target_entropy, n_actions=0)
        super().__init__(
            policy, env, learning_rate, buffer_size, learning_starts, batch_size, tau, gamma, train_freq,
            gradient_steps, replay_buffer_class=SequenceReplayBuffer, sde_support=False, support_multi_env=True,
            policy_kwargs=policy_kwargs, **kwargs,
        )  # fmt: skip
        if _init_setup_model:
            self._setup_model()

    def _check_limits(self) -> None:
        if not self._limit >= 0.0:
            raise ValueError(f"step_limit must be >= 0 or None, got {self.step_limit}")
        if self.gamma_risk == 1.0:
            raise ValueError("gamma_risk must be below 1: the limit is on (1 - gamma_risk) * Qc")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0.0:
            raise ValueError(f"max_grad_norm must be > 0 or None, got {self.max_grad_norm}")

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        if not isinstance(self.policy_class, type) or not issubclass(self.policy_class, RecurrentPolicy):
            raise ValueError(f"policy must be a RecurrentPolicy or one of {sorted(self.policy_aliases)}, "
                             f"got {self.policy_class}")  # fmt: skip
        if not isinstance(self.action_space, spaces.Box):
            raise ValueError(f"RecurrentSACLag needs a Box action space, got {self.action_space}")
        self.replay_buffer_kwargs = {
            "gru_size": self.policy_kwargs.get("gru_size", GRU_SIZE), "horizon": self.horizon, "burn_in": self.burn_in,
            "use_feedback": self.use_feedback, "missing_cost": self.missing_cost,
        }  # fmt: skip
        sizes, self.policy_kwargs = self.policy_kwargs, {**self.policy_kwargs, "use_feedback": self.use_feedback}
        super()._setup_model()
        self.policy_kwargs = sizes  # as they were given: load() compares them
        self._metrics = defaultdict(list)
        self._build_parts()

    def _setup_safety(self) -> None:
        self._check_limits()  # load may have brought others
        self.multiplier = self._make_multiplier()
        self.temperature: Temperature | None = None
        if isinstance(self.ent_coef, str):
            target = _target_entropy(self.target_entropy, self.policy.actor.n_actions)
            initial, rate = _initial_temperature(self.ent_coef), self.lr_schedule(1)
            self.temperature = Temperature(initial, target, rate).to(self.device)

    def _make_multiplier(self) -> Multiplier:
        return make_multiplier(
            self.multiplier_name, self.multiplier_kwargs, learning_rate=LEARNING_RATE, space="linear"
        )

    @property
    def _limit(self) -> float:
        return math.inf if self.step_limit is None else float(self.step_limit)

    @property
    def price(self) -> float:
        """What a unit of cost is worth in reward now; 0 without a limit."""
        return self.multiplier.value if math.isfinite(self._limit) else 0.0

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """SB3's ``set_parameters``.

        Raises:
            ValueError: if the parameters are those of another architecture.
        """
        try:
            super().set_parameters(load_path_or_dict, exact_match, device)
        except (RuntimeError, AttributeError) as error:  # the latter for a part that this model has not got
            raise ValueError(
                f"the parameters are of another architecture than this model's: policy_kwargs={self.policy_kwargs}, "
                f"use_feedback={self.use_feedback}, multiplier={self.multiplier_name!r}, ent_coef={self.ent_coef!r}; "
                f"make the model with those that they were saved with ({error})"
            ) from error

    # ------------------------------------------------------------------ learning

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Algorithm 1's updates; nothing happens while no environment has a whole sequence."""
        self.policy.set_training_mode(True)
        optimizers: list[Any] = [self.policy.optimizer]
        if self.temperature is not None:
            optimizers.append(self.temperature.optimizer)
        self._update_learning_rate(optimizers)
        self._metrics = defaultdict(list)
        if self.replay_buffer.n_windows() == 0:
            return
        for _ in range(gradient_steps):
            self._update(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))
        self._n_updates += gradient_steps
        self._log_metrics()

    def _update(self, batch: SequenceBatch) -> None:
        """One step of heads, trunk and policy, then of multiplier, temperature and target networks."""
        latent, targets = self._evaluate(batch)
        mask, actions = batch.mask[self.burn_in :], batch.actions[self.burn_in : -1]
        critic_loss = squared_error(self.policy.heads(latent[:-1], actions), targets, mask)
        actor_loss, cost_value, entropy = self._actor_loss(latent[:-1].detach(), mask)
        self._descend(critic_loss + actor_loss)
        self._move_multiplier(cost_value)
        if self.temperature is not None:
            self.temperature.update(entropy)
        self.policy.move_target(self.tau)
        losses = {"critic_loss": critic_loss.item(), "actor_loss": actor_loss.item(), "ent_coef": self.entropy_coef}
        for name, value in losses.items():
            self._metrics[f"train/{name}"].append(value)

    @property
    def entropy_coef(self) -> float:
        """The entropy coefficient now."""
        return float(self.ent_coef) if self.temperature is None else self.temperature.value

    def _evaluate(self, batch: SequenceBatch) -> tuple[th.Tensor, th.Tensor]:
        """Outputs of the trunk ``[T + 1, B, H]`` after the burn-in, and targets of the heads ``[3, T, B]``."""
        policy, begin = self.policy, self.burn_in
        latent = self._latents(policy.trunk, batch)
        with th.no_grad():
            slow = self._latents(policy.target_trunk, batch)
            next_actions, log_prob = policy.actor(latent[1:])
            first, second, cost = policy.target_heads(slow[1:], next_actions)
            soft_value = th.minimum(first, second) - self.entropy_coef * log_prob
            going_on = 1.0 - batch.dones[begin:-1]
            returns = batch.rewards[begin:-1] + self.gamma * going_on * soft_value
            costs = batch.costs[begin:-1] + self.gamma_risk * going_on * cost
        return latent, th.stack([returns, returns, costs])

    def _latents(self, trunk: Any, batch: SequenceBatch) -> th.Tensor:
        starts, obs, hidden = batch.episode_starts, batch.observations, batch.hidden
        if self.burn_in > 0:
            first = self.burn_in * starts.shape[1]
            with th.no_grad():
                early = {name: values[:first] for name, values in obs.items()}
                _, hidden = trunk(early, hidden, starts[: self.burn_in])
            obs, starts = {name: values[first:] for name, values in obs.items()}, starts[self.burn_in :]
        outputs: th.Tensor = trunk(obs, hidden, starts)[0]
        return outputs

    def _actor_loss(self, latent: th.Tensor, mask: th.Tensor) -> tuple[th.Tensor, float, float]:
        """Loss of the policy, mean Qc of its actions and their mean entropy."""
        actions, log_prob = self.policy.actor(latent)
        with frozen(self.policy.heads):
            first, second, cost = self.policy.heads(latent, actions)
        value = th.minimum(first, second) - self.entropy_coef * log_prob - self.price * cost
        cost_value, entropy = (float(masked_mean(x.detach(), mask)) for x in (cost, -log_prob))
        return -masked_mean(value, mask), cost_value, entropy

    def _descend(self, loss: th.Tensor) -> None:
        self.policy.optimizer.zero_grad()
        loss.backward()
        if self.max_grad_norm is not None:
            for modules in ((self.policy.trunk, self.policy.heads), (self.policy.actor,)):
                th.nn.utils.clip_grad_norm_([p for m in modules for p in m.parameters()], self.max_grad_norm)
        self.policy.optimizer.step()

    def _move_multiplier(self, cost_value: float) -> None:
        excess = (1.0 - self.gamma_risk) * cost_value - self._limit
        if math.isfinite(excess):
            self.multiplier.set_progress(1.0 - self._current_progress_remaining)
            self.multiplier.update(excess)
            self._metrics["safety/excess"].append(excess)
        self._metrics["safety/multiplier"].append(self.price)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, "policy.optimizer"], tensors


def _check_unsupported(kwargs: dict[str, Any]) -> None:
    """Take out what SB3's classes know and this one cannot use; it must be as if it were not there."""
    for name, only in (("n_steps", 1), ("optimize_memory_usage", False), ("replay_buffer_class", None)):
        if kwargs.pop(name, only) != only:
            raise ValueError(f"{name} must be {only}: sequences are replayed step by step from their own buffer")
    if "cost_limit" in kwargs:
        raise ValueError(
            f"cost_limit={kwargs['cost_limit']} would be on an episode's cost: pass step_limit=, on the mean cost of a "
            "step, which is that divided by an episode's steps"
        )
    for name in ("action_noise", "use_sde", "use_sde_at_warmup"):
        if kwargs.pop(name, None):
            raise ValueError(f"{name} is not supported: the policy explores by its own samples")


def _target_entropy(target_entropy: float | str, n_actions: int) -> float:
    """The entropy that a learned coefficient aims at."""
    try:
        value = -float(n_actions) if target_entropy == "auto" else float(target_entropy)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"target_entropy must be a number or 'auto', got {target_entropy!r}")
    return value


def _initial_temperature(ent_coef: float | str) -> float:
    """The entropy coefficient to start from."""
    text = str(ent_coef)
    try:
        value = 1.0 if text == "auto" else float(text.removeprefix("auto_") if isinstance(ent_coef, str) else ent_coef)
    except ValueError:
        value = -1.0
    if not (value >= 0.0 and math.isfinite(value)) or (isinstance(ent_coef, str) and value == 0.0):
        raise ValueError(f"ent_coef must be >= 0, 'auto' or 'auto_<initial value above 0>', got {ent_coef!r}")
    return value
