"""Parts that the algorithms are built from."""
