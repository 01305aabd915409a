"""Scripted policies and the collectors of offline data."""
