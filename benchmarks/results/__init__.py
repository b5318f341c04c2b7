"""The leaderboards of the frozen suites."""
