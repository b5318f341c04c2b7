"""The shipped baselines, each with the parameters that are tuned and the range in which they are sought."""

from __future__ import annotations

from emsynth.restoration import block_matching, classical
from emsynth.restoration.protocol import Baseline, Parameter, strength

_STABILISE = Parameter("stabilise", "", "generalised Anscombe transform around it, where electrons are counted",
                       "choice", values=(True, False), start=True)
_BM3D = strength("noise", "noise that BM3D is told, in units of the counting noise", 0.35, 5.6, 1000.0, start=1.4)
_AUTHORS = "the authors' bm3d (extra `baselines`), for non-commercial use only"

_ALL = (
    Baseline("identity", "The image itself", "nothing", "", (), classical.identity),
    Baseline(
        "gaussian", "Gaussian smoothing", "nothing finer than the filter", "SciPy (BSD)",
        (strength("px", "standard deviation", 0.3, 4.8, 64.0, name="sigma"),), classical.gaussian, quick=True,
    ),
    Baseline(
        "median", "Median of a disc", "outliers, edges; a symmetric distribution", "SciPy (BSD)",
        (Parameter("radius", "px", "of the disc", "steps", identity_end=True, start=1.0,
                   values=(0.0, 1.0, 1.5, 2.0, 2.3, 3.0, 3.7, 4.5, 6.0, 8.0, 11.0, 16.0)),),
        classical.median, quick=True,
    ),
    Baseline(
        "wiener", "Adaptive Wiener filter", "white noise of known strength", "SciPy (BSD)",
        (_STABILISE, strength("noise", "noise that it is told, in units of the counting noise", 0.25, 4.0, 1000.0),
         Parameter("window", "px", "side of the window", "steps", identity_end=True, start=5,
                   values=(1, 3, 5, 7, 9, 13, 19, 27, 39, 55, 77, 111, 127), largest=True)),
        classical.wiener, quick=True,
    ),
    Baseline(
        "tv", "Total variation", "pieces without texture", "scikit-image (BSD)",
        (_STABILISE, strength("noise", "weight, in units of the counting noise", 0.1, 6.4, 3000.0)),
        classical.total_variation, quick=True,
    ),
    Baseline(
        "nlm", "Non-local means", "patches that recur within 15 px", "scikit-image (BSD)",
        (_STABILISE, strength("noise", "cut-off, in units of the counting noise", 0.25, 4.0, 1000.0),
         Parameter("patch", "px", "side of a patch", "steps", values=(1, 3, 5, 7, 9, 13, 19, 27, 39, 55, 77), start=5,
                   smallest=True)), classical.nonlocal_means,
    ),
    Baseline(
        "wavelet", "Translation-invariant wavelet thresholds", "white noise of known strength; few coefficients",
        "scikit-image (BSD), PyWavelets (MIT)",
        (_STABILISE, Parameter("threshold", "", "universal and hard, or BayesShrink and soft", "choice",
                               values=("hard", "soft"), start="hard"),
         strength("noise", "noise that it is told, in units of the counting noise", 0.2, 6.4, 1000.0)),
        classical.wavelet, quick=True,
    ),
    Baseline(
        "bm3d", "BM3D", "blocks that recur within 19 px; white noise", _AUTHORS,
        (_STABILISE, _BM3D), block_matching.block_matching,
    ),
    Baseline(
        "rows_bm3d", "Rows aligned, then BM3D", "as BM3D; rows displaced and offset as a whole, vertical structure "
        "that goes on over a few rows", f"own alignment; {_AUTHORS}",
        (_STABILISE,
         Parameter("level_rows", "rows", "span over which pixels above each other are smooth, for offsets", "steps",
                   values=(0, 5, 7, 9, 13, 19, 27, 39, 55, 77, 111, 127), identity_end=True, largest=True,
                   start=0),
         strength("px", "expected deviation of the rows", 0.1, 3.2, 40.0, start=0.0, name="jitter"), _BM3D),
        block_matching.rows_then_blocks,
    ),
)
BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _ALL}
