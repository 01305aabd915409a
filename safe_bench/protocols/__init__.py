"""The papers' experiments as data; one file a paper."""

from __future__ import annotations

from safe_bench.protocols import dual_agent, mesa, recovery_rl, safe_transfer, safety_gym, sqrl
from safe_bench.protocols.base import Budget, LayerFit, Method, Protocol, Published, Stage, Transfer, run_config

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for paper in (recovery_rl, sqrl, safety_gym, dual_agent, mesa, safe_transfer)
    for protocol in paper.PROTOCOLS
}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: naming the known ones, if there is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {sorted(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]


def protocols_called(name: str) -> tuple[Protocol, ...]:
    """The protocol of that name, or all of the group: ``"mesa"``, ``"safe-transfer/point"``; in their order.

    Raises:
        ValueError: naming the known ones, if there is none.
    """
    group = tuple(protocol for key, protocol in PROTOCOLS.items() if key.startswith((f"{name}/", f"{name}-")))
    return (PROTOCOLS[name],) if name in PROTOCOLS else group or (get_protocol(name),)


__all__ = [
    "PROTOCOLS", "Budget", "LayerFit", "Method", "Protocol", "Published", "Stage", "Transfer",
    "get_protocol", "protocols_called", "run_config",
]  # fmt: skip
