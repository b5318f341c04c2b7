"""Symmetries of the square that leave a distortion as it is, so that a pair may be turned over with its distortions.

An operation is a triple (transpose, flip_rows, flip_cols), carried out in this order on both images of a pair. It is
allowed where the distribution of the distorted image for a given truth is the same whether both are turned over or the
specimen was: a scan has a fast axis and a direction of time, a camera has neither.
"""

from __future__ import annotations

from itertools import product

Turn = tuple[bool, bool, bool]
Symmetry = frozenset[Turn]

IDENTITY: Symmetry = frozenset({(False, False, False)})
# Of what is alike along both axes and in both directions of each.
SQUARE: Symmetry = frozenset((a, b, c) for a, b, c in product((False, True), repeat=3))
# Of what happens row by row, alike from top to bottom and from bottom to top, and from left to right and back.
FLIPS: Symmetry = frozenset(turn for turn in SQUARE if not turn[0])
# Of what runs on in time and looks the same backwards: only rows and columns together reverse the time.
REVERSAL: Symmetry = IDENTITY | {(False, True, True)}
# Of what knows top from bottom, and not left from right.
LEFT_RIGHT: Symmetry = IDENTITY | {(False, False, True)}
