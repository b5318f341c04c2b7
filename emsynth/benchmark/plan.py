"""What a suite is made from: its scenes, its conditions and the seeds of both."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from emsynth.benchmark.suite import Content
from emsynth.document import read
from emsynth.draw import Strict
from emsynth.errors import SuiteError
from emsynth.microscope import AnyMicroscope
from emsynth.simulation.plan import Phenomenological, Simulation
from emsynth.specimen import AnySpecimen


def _tagged(kind: str) -> BeforeValidator:
    return BeforeValidator(lambda value: {"kind": kind, **value} if isinstance(value, dict) else value)


class Probes(Strict):
    """How many columns of a lattice are changed in its perturbed twin.

    Attributes
    ----------
    shift, dopant, vacancy : int
        Columns beside their place, with a foreign atom, without one of their atoms.
    spacing : float
        Least distance in Å between two of them.
    neighbour : float
        Least distance in Å from any of them to the next column.
    """

    shift: Annotated[int, Field(ge=0, le=50)] = 6
    dopant: Annotated[int, Field(ge=0, le=50)] = 6
    vacancy: Annotated[int, Field(ge=0, le=50)] = 3
    spacing: Annotated[float, Field(gt=0)] = 4.5
    neighbour: Annotated[float, Field(gt=0)] = 1.6


class ScenePlan(Strict):
    """One scene, and its perturbed twin where it has `probes`.

    Attributes
    ----------
    name : str
    content : str
        What it shows; see `emsynth.benchmark.suite.Scene`.
    specimen : specimen
        As in a recipe; reserved prototypes are welcome.
    detector : str
        Of the microscope.
    pixel_size : float
        Å.
    rotation : float
        Of what is seen, degrees, counter-clockwise.
    strain : float
        Largest strain of a smooth map.
    centre : tuple of float or None
        (row, col) of the window's centre on the specimen, as parts of the field; drawn where not given.
    microscope : str
        Which of the plan's microscopes.
    field_of : str or None
        An earlier scene whose field it shows another part of; its own specimen then is that one's.
    probes : Probes or None
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    content: Content
    specimen: AnySpecimen
    detector: str
    pixel_size: Annotated[float, Field(gt=0)]
    rotation: float = 0.0
    strain: Annotated[float, Field(ge=0, le=0.05)] = 0.0
    centre: tuple[float, float] | None = None
    microscope: str
    field_of: str | None = None
    probes: Probes | None = None

    @model_validator(mode="after")
    def _perturbed(self) -> Self:
        if self.probes is not None and self.content != "lattice":
            raise ValueError(f"{self.name}: only a lattice has probes, and this is {self.content}")
        return self


class SuitePlan(Strict):
    """A suite before it is frozen.

    Attributes
    ----------
    name, title : str
    split : {"score", "tune"}
    licence, citation : str
    seed : int
    size : int
        Rows and columns of an image.
    families : dict
        Name in the suite to name in the table of severities.
    severities : tuple of int
    microscopes : dict of microscope
    simulate : Simulation or Phenomenological
    batches : int
        Phonon configurations of a twin pair, in batches of two.
    resolution : float
        Å: columns with a neighbour that is nearer are not listed, because the microscope shows them as one.
    scenes : tuple of ScenePlan
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+_v\d+(_tune)?$")]
    title: str
    split: Literal["score", "tune"]
    licence: str
    citation: str
    seed: int
    size: Annotated[int, Field(ge=16, le=1024)]
    families: dict[str, str]
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = (1, 2, 3, 4, 5)
    microscopes: dict[str, Annotated[AnyMicroscope, Field(discriminator="kind"), _tagged("stem")]]
    simulate: Annotated[Simulation | Phenomenological, Field(discriminator="kind"), _tagged("multislice")]
    batches: Annotated[int, Field(ge=2, le=200)] = 6
    resolution: Annotated[float, Field(gt=0)] = 1.6
    scenes: tuple[ScenePlan, ...]

    @property
    def purpose(self) -> Literal["suite", "tune"]:
        """Which reserved prototypes it may use."""
        return "suite" if self.split == "score" else "tune"

    @model_validator(mode="after")
    def _known(self) -> Self:
        for scene in self.scenes:
            if scene.microscope not in self.microscopes:
                raise ValueError(f"{scene.name}: no microscope '{scene.microscope}'; there are "
                                 f"{', '.join(self.microscopes)}")
            names = [earlier.name for earlier in self.scenes[:self.scenes.index(scene)]]
            if scene.field_of is not None and (scene.field_of not in names or scene.probes is not None):
                raise ValueError(f"{scene.name}: field_of: '{scene.field_of}' is no earlier scene, or there are probes")
        if len({scene.name for scene in self.scenes}) < len(self.scenes):
            raise ValueError("scenes: two of them have the same name")
        return self


def plan_folder() -> Path:
    """Where the plans of the shipped suites are."""
    return Path(str(resources.files("emsynth.benchmark"))) / "plans"


def planned() -> tuple[str, ...]:
    """Names of all suites that there is a plan for."""
    return tuple(sorted(path.stem for path in plan_folder().glob("*.yaml")))


@lru_cache(maxsize=8)
def load_plan(path_or_name: str | os.PathLike[str]) -> SuitePlan:
    """The plan of a suite, by its name or from a file.

    Raises
    ------
    SuiteError
        Where there is none, or it is not one.
    """
    path = Path(path_or_name)
    if path.suffix != ".yaml":
        path = plan_folder() / f"{path_or_name}.yaml"
    if not path.is_file():
        raise SuiteError(f"{path_or_name}: no plan of a suite; there are {', '.join(planned())}")
    content: dict[str, Any] = read(path).content
    content.pop("shared", None)
    try:
        return SuitePlan.model_validate(content)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise SuiteError(f"{path}: {place}: {first['msg']}") from None
