"""Classes put together from one of ours and one of Safety-Gymnasium's."""

from __future__ import annotations

from functools import cache
from typing import Any


class Combined:
    """Base of ``ours`` in ``combine``: pickle, which cannot find such a class by its name, is told how to make it."""

    def __reduce__(self) -> tuple[Any, ...]:
        ours, theirs = type(self).__bases__
        return _blank, (ours, theirs), self.__getstate__()


@cache
def combine(ours: type, theirs: type) -> Any:
    """Their class with our methods; it keeps its name, because Safety-Gymnasium reads names of classes."""
    return type(theirs.__name__, (ours, theirs), {"__module__": theirs.__module__})


def _blank(ours: type, theirs: type) -> Any:
    return object.__new__(combine(ours, theirs))
