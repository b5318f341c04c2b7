"""The shipped recipes keep what the README promises of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from emsynth import specimen
from emsynth.document import shipped_folders
from emsynth.errors import FieldError, RecipeError, StructureError
from emsynth.recipe import Recipe
from emsynth.sample import outline
from emsynth.specimen import drawable_names, reserved, structures

SHIPPED = sorted(path for path in shipped_folders()[-1].glob("*.yaml") if not path.stem.startswith("train_"))


@pytest.fixture(scope="module", params=SHIPPED, ids=[p.stem for p in SHIPPED])
def outlines(request):
    recipe = Recipe.load(request.param)
    return [outline(recipe, field) for field in range(recipe.fields)]


def test_no_prototype_is_reserved_or_in_two_splits(outlines):
    """Against the table as it is written, in which a prototype is either in one split or reserved."""
    table = json.loads((Path(specimen.__file__).parent / "structures.json").read_text())["prototypes"]
    for found in outlines:
        if found.kind == "crystal":
            assert "reserved" not in table[found.prototype]
            assert table[found.prototype]["split"] == found.split
    assert all(("split" in entry) != ("reserved" in entry) for entry in table.values())


def test_what_is_dealt_by_field_is_refused_for_samples():
    with pytest.raises(RecipeError, match=r"image: dist 'deal' hands out its values field by field"):
        Recipe.load("quickstart", ["image.detector={dist: deal, values: [HAADF, ABF]}"])


def test_every_pass_fits_into_4_gb(outlines):
    assert max(o.memory for o in outlines) < 3.0


def test_recipes_take_the_same_three_settings():
    for path in SHIPPED:
        recipe = Recipe.load(path, ["samples=16", "fields=2", "seed=5"])
        assert (recipe.samples, recipe.fields, recipe.seed) == (16, 2, 5)
        assert {recipe.field_of(i) for i in range(16)} == {0, 1}


def test_recipes_name_their_schema_in_the_first_line():
    for path in SHIPPED:
        assert path.read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n")


SIX = ("stem_hd", "tem_hd", "sem_hd", "stem_ld", "tem_ld", "sem_ld")


@pytest.mark.parametrize("name", SIX)
def test_every_field_of_a_shipped_recipe_can_be_made(name):
    """Before anything is simulated: structures that build, windows that fit, memory within 4 GB, all three splits."""
    recipe = Recipe.load(name)
    found = [outline(recipe, field) for field in range(recipe.fields)]
    assert recipe.samples == 2048
    assert {o.split for o in found} == {"train", "val", "test"}
    assert max(o.memory for o in found) < 3.4
    assert not any(reserved(o.prototype) for o in found)
    assert len({(o.kind, o.structure) for o in found}) > recipe.fields / 2


@pytest.mark.parametrize("name", ["stem_hd", "tem_hd"])
def test_few_samples_are_perfectly_periodic(name):
    """At most 40 %: a clean crystal, without a strain or thickness map; counted over the samples themselves."""
    recipe = Recipe.load(name)
    perfect = 0
    for sample in range(recipe.fields * 8):
        drawn = recipe.draw(sample)
        member = drawn.specimen.members[0]
        clean = member.contamination is None or not member.contamination.share
        perfect += member.specimen.kind == "crystal" and clean and drawn.image.perfect == 1
    assert perfect <= 0.4 * recipe.fields * 8


def test_kinds_of_specimen_of_the_high_magnification_recipes():
    """Crystals, what is wrong with crystals, particles, layers and films, in both."""
    for name in ("stem_hd", "tem_hd"):
        kinds = {member.specimen.kind for member in Recipe.load(name).specimen.members}
        assert kinds == {"crystal", "defects", "boundary", "edge", "nanoparticle", "layer", "amorphous"}


@pytest.mark.parametrize(("change", "said"), [
    ({"specimen": {"kind": "morphology"}}, "specimen: kind 'morphology' cannot be simulated by kind 'multislice'"),
    ({"microscope": {"kind": "sem"}}, "microscope: kind 'sem' does not go with simulate.kind 'multislice'; use a"),
    ({"simulate": {"kind": "phenomenological"}}, "specimen: kind 'crystal' cannot be simulated by kind 'phenomenolog"),
    ({"simulate": {"phonons": {"model": "debye_waller"}}}, "simulate.phonons.model: debye_waller leaves out"),
    ({"simulate": {"physics": "prism"}, "microscope": {"kind": "tem"}, "image": {"detector": "any"}},
     "simulate.physics: prism is for scanned probes"),
    ({"image": {"pixel_size": 9}}, "image.pixel_size: 9 Å is outside 0.01 to 5 Å"),
    ({"specimen": {"kind": "morphology"}, "microscope": {"kind": "sem"}, "simulate": {"kind": "phenomenological"},
      "image": {"pixel_size": 0.1, "detector": "SE"}}, "image.pixel_size: 0.1 Å is outside 0.5 to 100000 Å"),
    ({"specimen": {"kind": "morphology"}, "microscope": {"kind": "sem"}, "simulate": {"kind": "phenomenological"},
      "image": {"pixel_size": 10, "plane": 0.5, "detector": "SE"}}, "image.plane: is given, and phenomenological"),
])
def test_physics_that_do_not_go_together_are_refused(change, said):
    made = {"name": "x", "samples": 1, "fields": 1, "specimen": {"kind": "crystal", "structure": "Au"}, **change}
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate(made)


def test_a_drawn_mixture_keeps_what_lies_on_its_specimen():
    """Layers and physics stand in the drawn recipe; drawing it again changes nothing, and the atoms are the same."""
    recipe = Recipe.load("tem_hd")
    field = next(j for j in range(recipe.fields)
                 if (layers := recipe.draw_field(j).member.contamination) is not None and layers.share == 1)
    drawn = recipe.draw(field)
    member = drawn.specimen.members[0]
    assert member.contamination.share == 1
    again = Recipe.model_validate_json(drawn.model_dump_json())
    assert again == drawn
    assert outline(again, field).digest == outline(recipe, field).digest


def test_a_drawn_recipe_is_a_recipe():
    recipe = Recipe.load("stem_hd")
    for index in (0, 3, 6, 700):
        drawn = recipe.draw(index)
        assert not list(drawn.distributions())
        assert drawn.draw(index) == drawn
        assert Recipe.model_validate_json(drawn.model_dump_json()) == drawn


def test_the_digest_knows_the_content_and_not_the_place(tmp_path):
    text = "\n".join(["name: x", "samples: 1", "fields: 1", "specimen: {kind: crystal, file: a.cif}"])
    digests = []
    for folder, content in (("one", "A"), ("two", "A"), ("three", "B")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.cif").write_text(content)
        (tmp_path / folder / "r.yaml").write_text(text)
        digests.append(Recipe.load(tmp_path / folder / "r.yaml").digest)
    assert digests[0] == digests[1] != digests[2]
    assert Recipe.load("quickstart").digest != Recipe.load("quickstart", ["seed=2"]).digest


def test_the_table_has_enough_of_everything():
    """16 structures of 10 prototypes at least; some reserved; all that may be drawn is unreserved."""
    table = structures()
    assert len(table) >= 16
    assert len({s.prototype for s in table}) >= 10
    assert {reserved(s.prototype) for s in table} == {None, "suite", "tune"}
    assert {"Nb3Sn", "NiAl"}.isdisjoint(drawable_names())
    assert {"Au", "SrTiO3", "CeO2"} <= set(drawable_names())


def test_a_complaint_names_the_member_and_the_microscope():
    """A mistake that only a field shows has its place in the recipe: which member, which microscope."""
    recipe = Recipe.load("stem_hd", ["specimen.members.2.specimen.vacuum=40"])
    field = next(j for j in range(recipe.fields) if recipe.specimen.member_of(j)[0] == 2)
    with pytest.raises(StructureError, match=r"^specimen.members.2.specimen: .*40 Å of vacuum"):
        outline(recipe, field)
    recipe = Recipe.load("tem_hd", [f"microscope.{n}.aperture=80" for n in range(3)])
    with pytest.raises(FieldError, match=r"^microscope.\d.aperture: 80 mrad is beyond the simulated 45 mrad"):
        outline(recipe, 0)


def test_detectors_that_an_approximation_does_not_offer():
    """Only those that it does not offer: refused; some that it does: its fields have these."""
    particle = "{kind: nanoparticle, structure: Au, shape: sphere, diameter: 16, support_thickness: 0, box: 30}"
    changes = [f"specimen={particle}",
               "simulate.physics=convolution", "microscope.energy=80e3", "microscope.source_size=0.6"]
    with pytest.raises(FieldError, match=r"image.detector: ABF is not offered by convolution, which offers HAADF"):
        outline(Recipe.load("quickstart", [*changes, "image.detector=ABF"]), 0)
    with pytest.raises(FieldError, match=r"simulate.deviation: HAADF by convolution deviates by \d.\d% from"):
        outline(Recipe.load("quickstart", [*changes, "simulate.deviation=0.01"]), 0)
    assert outline(Recipe.load("quickstart", changes), 0).kind == "nanoparticle"
