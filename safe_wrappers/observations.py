"""Observations are arrays, or dictionaries of them; whoever handles both alike finds the one way here.

Written for NumPy's arrays; PyTorch's tensors work as well, where the function does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Observations = NDArray[Any] | dict[str, NDArray[Any]]


def map_entries(function: Callable[..., Any], *observations: Any) -> Any:
    """``function`` of arrays; of dictionaries, entry by entry, the dictionary of its results.

    Args:
        function: takes as many arrays as there are observations.
        *observations: all of one form.

    Examples:
        >>> map_entries(len, np.zeros((3, 2)))
        3
        >>> map_entries(lambda *rows: np.stack(rows).tolist(), {"x": 1}, {"x": 2})
        {'x': [1, 2]}
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: map_entries(function, *(each[key] for each in observations)) for key in first}
    return function(*observations)


def batch_of_one(observation: Any) -> Any:
    """One observation as a batch ``[1, ...]``, copied."""
    return map_entries(lambda entry: np.array(entry)[None], observation)


def take_rows(observations: Any, rows: Any) -> Any:
    """The given rows of batched observations; ``rows`` is whatever indexes an array."""
    return map_entries(lambda entries: entries[rows], observations)


def n_rows(observations: Any) -> int:
    """Number of observations in a batch."""
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
