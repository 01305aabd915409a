"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil
import warnings

import pytest

import sb3_ext

MODULES = ["sb3_ext", *(module.name for module in pkgutil.walk_packages(sb3_ext.__path__, "sb3_ext."))]


def examples(name):
    return [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("name", [name for name in MODULES if examples(name)])
def test_examples_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_algorithm_has_an_example():
    for name in ("SafeSAC", "SafeTD3", "SACLag", "RecoveryRL", "evaluate_safely", "GymVecEnv"):
        assert ">>>" in getattr(sb3_ext, name).__doc__
