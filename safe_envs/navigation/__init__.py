"""Planar navigation tasks with obstacles."""
