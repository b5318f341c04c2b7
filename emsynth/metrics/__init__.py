"""Metrics of a restored micrograph against its truth: arrays in, numbers with a unit out."""
