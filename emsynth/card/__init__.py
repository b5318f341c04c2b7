"""The card of a data set: what it is, how it was made and what to cite, for people and for machines."""

from emsynth.card.publication import Publication as Publication
from emsynth.card.writing import write_card as write_card
