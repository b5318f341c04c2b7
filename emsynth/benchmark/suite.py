"""A suite: frozen scenes under frozen distortions, with everything that a judge of restorers must know of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import SuiteError

Floats = NDArray[np.float32]
Content = Literal["lattice", "perturbed", "strained", "boundary", "edge", "particle", "amorphous", "surface"]
ProbeKind = Literal["shift", "dopant", "vacancy"]


@dataclass(frozen=True)
class Condition:
    """One family of distortions at one severity.

    Attributes
    ----------
    family : str
        Name in the table of severities; ``combined`` is everything at once.
    severity : int
        1, a good day, to 5, barely usable.
    expected_counts : float
        Electrons per pixel, mean over the truth.
    gain, black_level : float
        ADU per electron, and ADU where nothing is detected; 1 and 0 in the released suites, which are calibrated.
    counted : bool
        Whether the electrons were counted (Poisson), so that a Cramér-Rao bound exists.
    variance : float
        Of what is added to the counts (read noise), electrons squared.
    excess : float
        Variance over mean of what is counted: 1 of Poisson, more of pulse spread, secondary electrons or a camera with
        a DQE below 1.
    chain : dict
        The chain of distortions, as a recipe writes it.
    """

    family: str
    severity: int
    expected_counts: float
    gain: float
    black_level: float
    counted: bool
    variance: float
    excess: float
    chain: dict[str, Any] = field(compare=False, default_factory=dict)

    @property
    def name(self) -> str:
        """``poisson-3``."""
        return f"{self.family}-{self.severity}"


@dataclass(frozen=True)
class Probe:
    """One change of one column, whose return is the response of a restorer.

    Attributes
    ----------
    kind : {"shift", "dopant", "vacancy"}
        A column beside its place, a column with a foreign atom, a column that lacks an atom.
    column : int
        Index of the column in its scene, and in the scene's partner.
    about : str
        What was done, for people.
    """

    kind: ProbeKind
    column: int
    about: str = ""


@dataclass(frozen=True, eq=False)
class Scene:
    """One specimen under one microscope: what all conditions show.

    Attributes
    ----------
    index : int
        Its number in the suite.
    name, content, prototype, structure, physics, detector : str
        What it shows, and what made it: ``"multislice"`` or ``"phenomenological"``.
    sampling : float
        Size of a pixel, Å.
    truth : ndarray (H, W), float32
        Clean image, of mean 1; 0 is no electron.
    classes : ndarray (H, W), uint8
        0 vacuum, 1 amorphous, 2 + n grain n, 255 unknown.
    columns : ndarray (n, 2), float64
        (row, col) of the atom columns in px; pixel centres are whole numbers. Of a scene with a partner, of all that
        are or were there, in the partner's order.
    number : ndarray (n,), uint8
        Atomic number of each column's heaviest element.
    formula : tuple of str
        Content of each column.
    partner : int or None
        Scene that shows the same without the probes, under the same noise.
    probes : tuple of Probe
        What differs from the partner.
    about : dict
        Provenance: microscope, simulation, standard error of the phonon mean.
    """

    index: int
    name: str
    content: Content
    prototype: str
    structure: str
    physics: str
    detector: str
    sampling: float
    truth: Floats
    classes: NDArray[np.uint8]
    columns: NDArray[np.float64]
    number: NDArray[np.uint8]
    formula: tuple[str, ...]
    partner: int | None = None
    probes: tuple[Probe, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Case:
    """One image of a suite: one scene under one condition.

    Attributes
    ----------
    condition : Condition
    scene : Scene
    image, truth : ndarray (H, W), float32
        What the instrument gave and what it should have given, both in ADU.
    data_range : float
        Largest less smallest value of the truth, ADU: what PSNR and SSIM are relative to.
    counts : ndarray (H, W), float32
        The truth in electrons.
    """

    condition: Condition
    scene: Scene
    image: Floats
    truth: Floats
    data_range: float
    counts: Floats


@dataclass(frozen=True, eq=False)
class Suite:
    """A frozen suite.

    Attributes
    ----------
    name : str
        ``stem_hd_v1``; its tuning split is ``stem_hd_v1_tune``.
    title : str
        What it is, in a line.
    split : {"score", "tune"}
        Whether it judges, or tunes what is to be judged.
    digest : str
        SHA-256 of its file.
    conditions : tuple of Condition
    scenes : tuple of Scene
    codes : ndarray (condition, scene, H, W), uint16
        The images, as the converter gave them.
    step, offset : ndarray (condition, scene), float64
        An image is offset + step · code, ADU.
    scale : ndarray (condition, scene), float64
        Electrons per unit of a scene's truth.
    about : dict
        Licence, citation, versions.
    """

    name: str
    title: str
    split: Literal["score", "tune"]
    digest: str
    conditions: tuple[Condition, ...]
    scenes: tuple[Scene, ...]
    codes: NDArray[np.uint16]
    step: NDArray[np.float64]
    offset: NDArray[np.float64]
    scale: NDArray[np.float64]
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.conditions) * len(self.scenes)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of every image."""
        return self.codes.shape[2], self.codes.shape[3]

    @property
    def families(self) -> tuple[str, ...]:
        """Families in the order of the file, each once."""
        return tuple(dict.fromkeys(condition.family for condition in self.conditions))

    def condition(self, name: str) -> Condition:
        """The condition called `name`, such as ``poisson-3``; SuiteError where there is none."""
        for condition in self.conditions:
            if condition.name == name:
                return condition
        raise SuiteError(f"{self.name}: has no condition '{name}'; families are {', '.join(self.families)}, severities "
                         f"{min(c.severity for c in self.conditions)} to {max(c.severity for c in self.conditions)}")

    def case(self, condition: int, scene: int) -> Case:
        """One image with its truth; SuiteError where an index is out of range."""
        if not (0 <= condition < len(self.conditions) and 0 <= scene < len(self.scenes)):
            raise SuiteError(f"{self.name}: has no image ({condition}, {scene}); it has {len(self.conditions)} "
                             f"conditions of {len(self.scenes)} scenes")
        where, seen = self.conditions[condition], self.scenes[scene]
        image = self.offset[condition, scene] + self.step[condition, scene] * self.codes[condition, scene]
        counts = self.scale[condition, scene] * seen.truth.astype(np.float64)
        truth = (where.gain * counts + where.black_level).astype(np.float32)
        return Case(where, seen, image.astype(np.float32), truth, float(np.ptp(truth)), counts.astype(np.float32))

    def cases(self) -> Iterator[Case]:
        """All images, scene after scene within one condition after another."""
        for condition in range(len(self.conditions)):
            for scene in range(len(self.scenes)):
                yield self.case(condition, scene)
