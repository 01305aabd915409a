"""Gymnasium wrappers that measure harm and prevent it; they need Gymnasium and NumPy only."""

from safe_wrappers import info
from safe_wrappers.cost import CostFromFunction, CostFromInfo, CostPenalty, TerminateOnViolation
from safe_wrappers.dialects import FromSixTuple, ToSixTuple
from safe_wrappers.faults import ActuatorPower
from safe_wrappers.feedback import PreviousFeedback
from safe_wrappers.info import MissingCostError
from safe_wrappers.masking import ActionMask, SafeSample, sample_safely
from safe_wrappers.monitor import CostMonitor, EpisodeCost, EpisodeCosts
from safe_wrappers.recovery import RecoveryFilter
from safe_wrappers.risk import Filtered, allowed_actions, check_eps_risk, filter_action, filter_actions
from safe_wrappers.safety_layer import SafetyLayer, correct_actions
from safe_wrappers.tasks import TaskDistribution
from safe_wrappers.transitions import Transitions

__all__ = [
    "ActionMask",
    "ActuatorPower",
    "CostFromFunction",
    "CostFromInfo",
    "CostMonitor",
    "CostPenalty",
    "EpisodeCost",
    "EpisodeCosts",
    "Filtered",
    "FromSixTuple",
    "MissingCostError",
    "PreviousFeedback",
    "RecoveryFilter",
    "SafeSample",
    "SafetyLayer",
    "TaskDistribution",
    "TerminateOnViolation",
    "ToSixTuple",
    "Transitions",
    "allowed_actions",
    "check_eps_risk",
    "correct_actions",
    "filter_action",
    "filter_actions",
    "info",
    "sample_safely",
]
