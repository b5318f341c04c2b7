"""Measurements of emsynth against other ways to do the same."""
