"""Arms that move things."""
