"""Losses as pure functions, one idea a file."""
