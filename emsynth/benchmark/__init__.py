"""Frozen suites of distorted images, and what it takes to judge a restorer on them."""
