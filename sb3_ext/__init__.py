"""Safe reinforcement learning algorithms for Stable-Baselines3."""

from sb3_ext.common.buffers import (
    CostBatch,
    CostDictReplayBuffer,
    CostHerReplayBuffer,
    CostReplayBuffer,
    transitions_of,
)
from sb3_ext.common.callbacks import CostLoggingCallback, SafeEvalCallback
from sb3_ext.common.checkpoint import has_checkpoint
from sb3_ext.common.evaluation import SafetyEvaluation, evaluate_safely
from sb3_ext.common.export import ExportedFilter, load_critic, load_filter, pretrained_filter, save_critic
from sb3_ext.common.limits import discounted_limit, safe_steps
from sb3_ext.common.meta import Labelled, MetaLearner
from sb3_ext.common.multipliers import GradientMultiplier, Multiplier, PIDMultiplier, ScheduleMultiplier
from sb3_ext.common.recovery_policy import RecoveryActor
from sb3_ext.common.safe_sac import SafeSAC
from sb3_ext.common.safe_td3 import SafeTD3
from sb3_ext.common.safety_critic import SafetyCritic
from sb3_ext.common.selectors import RejectionSampling, ThresholdRecovery
from sb3_ext.common.vec_envs import GymVecEnv, VecRecoveryFilter
from sb3_ext.cpo import CPO
from sb3_ext.dual_agent import DualAgent
from sb3_ext.imitation import imitate
from sb3_ext.linear_cost_model import LinearCostModel
from sb3_ext.mesa import MESA, MultiTask
from sb3_ext.ppo_lag import PPOPID, PPOLag
from sb3_ext.rcpo import RCPO, RiskSensitiveSAC
from sb3_ext.recovery_rl import TUNED_RECOVERY, RecoveryRL
from sb3_ext.recurrent.policy import RecurrentPolicy
from sb3_ext.recurrent.ray_actors import learn_distributed
from sb3_ext.recurrent.recurrent_sac_lag import RecurrentSACLag
from sb3_ext.recurrent.sequence_buffer import SequenceReplayBuffer
from sb3_ext.recurrent.settings import SMALL_RECURRENT
from sb3_ext.sac_lag import RSPO, SACLag
from sb3_ext.sqrl import SQRL
from sb3_ext.trpo_lag import TRPOPID, TRPOLag

__all__ = [
    "CPO",
    "MESA",
    "PPOPID",
    "RCPO",
    "RSPO",
    "SMALL_RECURRENT",
    "SQRL",
    "TRPOPID",
    "TUNED_RECOVERY",
    "CostBatch",
    "CostDictReplayBuffer",
    "CostHerReplayBuffer",
    "CostLoggingCallback",
    "CostReplayBuffer",
    "DualAgent",
    "ExportedFilter",
    "GradientMultiplier",
    "GymVecEnv",
    "Labelled",
    "LinearCostModel",
    "MetaLearner",
    "MultiTask",
    "Multiplier",
    "PIDMultiplier",
    "PPOLag",
    "RecoveryActor",
    "RecoveryRL",
    "RecurrentPolicy",
    "RecurrentSACLag",
    "RejectionSampling",
    "RiskSensitiveSAC",
    "SACLag",
    "SafeEvalCallback",
    "SafeSAC",
    "SafeTD3",
    "SafetyCritic",
    "SafetyEvaluation",
    "ScheduleMultiplier",
    "SequenceReplayBuffer",
    "TRPOLag",
    "ThresholdRecovery",
    "VecRecoveryFilter",
    "discounted_limit",
    "evaluate_safely",
    "has_checkpoint",
    "imitate",
    "learn_distributed",
    "load_critic",
    "load_filter",
    "pretrained_filter",
    "safe_steps",
    "save_critic",
    "transitions_of",
]
