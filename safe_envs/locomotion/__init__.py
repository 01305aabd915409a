"""Robots that run."""
