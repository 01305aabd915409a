"""Recurrent, constrained soft actor-critic: networks, sequence replay, one process or many."""
