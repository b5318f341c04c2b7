"""Looking at samples: a contact sheet or an HTML report, and a recipe in words."""

from emsynth.preview.report import preview_dataset as preview_dataset
from emsynth.preview.report import preview_recipe as preview_recipe
