"""Streaming beside other readers of the same pairs; run by `python -m benchmarks.speed.streaming`."""
