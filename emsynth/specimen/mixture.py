"""Several specimens in one recipe, each with its share of the fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from emsynth.draw import Drawable, Streams
from emsynth.specimen.amorphous import Amorphous
from emsynth.specimen.boundary import Boundary
from emsynth.specimen.contamination import Contamination
from emsynth.specimen.crystal import Crystal
from emsynth.specimen.defects import Defects
from emsynth.specimen.edge import Edge
from emsynth.specimen.layer import Layer
from emsynth.specimen.morphology import Morphology
from emsynth.specimen.particle import Nanoparticle
from emsynth.specimen.table import Purpose

if TYPE_CHECKING:
    from emsynth.specimen.base import Specimen

# How a specimen of atoms may be simulated.
Physics = Literal["multislice", "prism", "convolution"]
# Specimens that are made of atoms, and any.
Atomistic = Crystal | Defects | Boundary | Edge | Nanoparticle | Layer | Amorphous
AnySpecimen = Annotated[Atomistic | Morphology, Field(discriminator="kind")]


class Member(Drawable):
    """One specimen of a mixture."""

    share: float = Field(1.0, gt=0, allow_inf_nan=False, description="share of the fields, relative to the others'")
    specimen: AnySpecimen
    contamination: Contamination | None = Field(None, description="amorphous layers on its faces; then it is no longer "
                                                "periodic, and scanned in full")
    physics: Physics | None = Field(None, description="how it is simulated; simulate.physics where not given")

    @model_validator(mode="after")
    def _of_atoms(self) -> Self:
        for key in ("contamination", "physics"):
            if isinstance(self.specimen, Morphology) and getattr(self, key) is not None:
                raise ValueError(f"{key}: is given, and a morphology has no atoms; remove it")
        return self

    def drawn_for(self, streams: Streams, path: str) -> Self:
        """The member drawn; each of its parts from random streams of its own."""
        layers = self.contamination
        return self.model_copy(update={
            "specimen": self.specimen.draw(streams, path),
            "contamination": None if layers is None else layers.draw(streams, f"{path}.contamination")})

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The atoms of a drawn member, with what lies on them.

        Raises
        ------
        StructureError
            Where its specimen cannot be built.
        """
        if isinstance(self.specimen, Morphology):
            raise TypeError("a morphology has no atoms")
        clean = self.specimen.build(streams, purpose)
        return clean if self.contamination is None else self.contamination.apply(clean, streams)


class Mixture(Drawable):
    """Specimens that take turns; each field has one."""

    kind: Literal["mixture"] = "mixture"
    members: Annotated[tuple[Member, ...], Field(min_length=1)]

    def member_of(self, field: int) -> tuple[int, int]:
        """Whose turn it is.

        Parameters
        ----------
        field : int
            Index of the field, from 0.

        Returns
        -------
        member : int
            Index of the member that the field shows.
        turn : int
            How many earlier fields showed the same member.

        Notes
        -----
        Each field goes to the member that lags most behind its share, the first of several. So any number of first
        fields is split as the shares are, as near as whole numbers can be; the seed has no part in it.
        """
        total = sum(member.share for member in self.members)
        shares = [member.share / total for member in self.members]
        counts = [0] * len(shares)
        for n in range(field + 1):
            # Rounded, so that equal shares tie whatever their last bits.
            lags = [round(share * (n + 1) - count, 9) for share, count in zip(shares, counts, strict=True)]
            chosen = lags.index(max(lags))
            counts[chosen] += 1
        return chosen, counts[chosen] - 1

    def draw(self, streams: Streams, path: str = "") -> Self:
        """A mixture of the one member whose turn it is, drawn."""
        chosen, turn = self.member_of(streams.index)
        drawn = self.members[chosen].drawn_for(Streams(streams.seed, streams.index, turn), f"{path}.{chosen}")
        return self.model_copy(update={"members": (drawn,)})

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The specimen of a drawn mixture."""
        if len(self.members) > 1:
            raise TypeError("the mixture has not been drawn: call .draw(streams) first")
        return self.members[0].build(streams, purpose)
