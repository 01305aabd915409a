"""The papers' experiments as resumable commands."""
