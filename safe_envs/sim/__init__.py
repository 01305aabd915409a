"""The only rooms that import a physics simulator."""
