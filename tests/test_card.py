"""The card of a data set: it says what the store holds, cites what was used, and machines can read it."""

from __future__ import annotations

import csv
import dataclasses
import logging
import re
import shutil
import warnings

import fakes
import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from emsynth import store
from emsynth.card import Publication, datasheet, literature, write_card, writing
from emsynth.card import facts as facts_of
from emsynth.card.facts import gather, span
from emsynth.cli import app
from emsynth.errors import StoreError
from emsynth.recipe import Recipe
from emsynth.simulation import images, multislice

STEM = {"physics": "multislice", "method": "plane waves, superposed exactly",
        "microscope": {"energy": 80e3, "convergence": 25.0}, "phonon_configurations": 3,
        "standard_error": {"HAADF": 0.0512}, "specimen": {"kind": "crystal", "structure": "Au", "prototype": "fcc"}}
TEM = STEM | {"method": "plane wave", "microscope": {"kind": "tem", "energy": 300e3}}
SURVEY = {"physics": "phenomenological", "microscope": {"kind": "sem", "energy": 1e3},
          "specimen": {"kind": "morphology", "structure": "grains: iron", "prototype": "morphology grains"}}
STAGES = {"scan": [{"stage": "row_jitter"}, {"stage": "hum", "probability": 0}],
          "detector": [{"stage": "poisson"}, {"stage": "gain", "gain": 10}]}


def build(folder, provenance=STEM, distort=STAGES, shards=3, **fields):
    recipe = Recipe.model_validate(fakes.recipe().model_dump() | {"distort": distort})
    path = store.create(folder / "fake.zarr", recipe, [fakes.outline(recipe, j) for j in range(3)]).path
    for j in range(recipe.fields):
        store.write_field(path, j, dataclasses.replace(fakes.simulate(recipe, j), provenance=provenance))
    for n in range(shards):
        samples = [fakes.render(recipe, i) for i in store.open_store(path).samples_of(n)]
        fields |= {"physics": provenance["physics"]}
        store.write_shard(path, n, [dataclasses.replace(s, drawn=recipe.draw(s.index), **fields) for s in samples])
    return path


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    path = build(tmp_path_factory.mktemp("card"))
    write_card(path)
    return path


@pytest.fixture(scope="module")
def text(card):
    return (card / "README.md").read_text()


@pytest.fixture
def no_pictures(monkeypatch):
    """The contact sheet takes a second, and is looked at in one test."""
    monkeypatch.setattr(writing, "_write_sheet", lambda path, out: out.write_bytes(b"PNG"))


def cited(path, provenance=None):
    """All citations of a data set, or of one of the same recipe with other fields."""
    facts = gather(path)
    other = facts if provenance is None else dataclasses.replace(facts, fields=(provenance,) * 3)
    return " ".join(work.text for work in literature.works(other))


def test_the_card_is_part_of_the_data_set_but_not_of_its_checksum(card, tmp_path, no_pictures):
    """`verify` knows the card's files, and notices when one of them changes."""
    copy = shutil.copytree(card, tmp_path / "fake.zarr")
    assert store.verify(copy) == []
    total = store.checksums(copy)["total"]
    (copy / "README.md").write_text("other")
    assert any("README.md" in problem for problem in store.verify(copy))
    assert store.checksums(copy)["total"] == total
    write_card(copy)
    assert store.verify(copy) == []


def test_a_card_written_again_has_the_same_bytes(card, tmp_path):
    """Neither the time nor the place gets into it."""
    copy = shutil.copytree(card, tmp_path / "fake.zarr")
    write_card(copy)
    for name in ("README.md", "croissant.json", "samples.csv", "samples.png", "manifest/card.json"):
        assert (copy / name).read_bytes() == (card / name).read_bytes(), name
    assert (copy / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_header_is_what_hugging_face_reads(text):
    """It is YAML, with the licence in their words."""
    header = YAML(typ="safe").load(text.split("---\n")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["size_categories"] == ["n<1K"]
    assert header["task_categories"] == ["image-to-image"]
    assert {"stem", "synthetic"} <= set(header["tags"])
    assert header["configs"][0]["data_files"][0]["path"] == "samples.csv"


def test_the_sections_are_those_of_a_datasheet_in_their_order(text):
    """Whoever knows datasheets finds their way."""
    assert re.findall(r"^## (.*)$", text, re.M)[:7] == [
        "Motivation", "Composition", "Collection process", "Preprocessing and distortion", "Uses", "Distribution",
        "Maintenance"]


def test_the_numbers_are_those_of_the_store(card, text):
    """Counts, accuracy, size and checksum are read, not written by hand."""
    assert "| splits | train 4, test 3, val 3 |" in text
    assert "HAADF 5.1 %" in text
    assert "80 kV" in text
    assert store.checksums(card)["total"] in text
    held = sum(entry["bytes"] for part in ("store", "field-00000", "field-00001", "field-00002", "shard-00000",
                                           "shard-00001", "shard-00002")
               for entry in store.manifest.read(card, part)["files"].values())
    assert f"{held:,} bytes" in text


def test_every_array_is_explained(card, text):
    """The table of arrays is that of the store."""
    with store.open_dataset(card) as held:
        assert all(f"| `{name}` |" in text for name in held.data_vars)


def test_what_is_not_known_is_said_to_be_missing(card, text):
    """Nobody is made up."""
    assert "Created by: not stated." in text
    assert "author" not in text.partition("```bibtex")[2].partition("```")[0]


def test_nan_is_reported_as_not_known(tmp_path, no_pictures):
    """A thickness that is a map has no number, and the card says for how many pairs."""
    path = build(tmp_path, SURVEY, thickness=float("nan"))
    text = write_card(path).read_text()
    assert "thickness of 10 pairs" in text
    assert "| thickness |" not in text


def test_stem_multislice_cites_its_methods(card):
    """abTEM, potentials, phonons and PRISM's superposition; no envelope of TEM."""
    assert all(name in cited(card) for name in ("abTEM", "Lobato and Van Dyck", "Loane", "Ophus, A fast"))
    assert "Frank" not in cited(card)


def test_tem_cites_its_envelope_and_no_scanned_probe(card):
    """What belongs to STEM alone is not cited."""
    assert "Frank" in cited(card, TEM)
    assert "Ophus, A fast" not in cited(card, TEM)


def test_a_static_lattice_does_not_cite_phonons(card):
    """No configurations, no frozen phonons."""
    assert "Loane" not in cited(card, STEM | {"phonon_configurations": 0})


@pytest.mark.parametrize(("about", "work"), [
    ({"contamination": {"material": "C"}}, "Tersoff"), ({"structure": "Au on a-C"}, "Tersoff"), ({"shape": "wulff"},
                                                                                              "Vitos")])
def test_what_a_specimen_was_built_with_is_cited_only_where_it_was(card, about, work):
    """Amorphous films, and Wulff's shapes."""
    assert work in cited(card, STEM | {"specimen": STEM["specimen"] | about})
    assert work not in cited(card)


def test_a_phenomenological_data_set_cites_no_multislice(card):
    """Nor anything about atoms, nor the laws of another microscope."""
    text = cited(card, SURVEY)
    assert "Kanaya" in text
    assert not any(name in text for name in ("abTEM", "Cowley", "Van Dyck", "Loane", "atomic simulation", "Teague"))


def test_images_of_somebody_s_own_are_not_called_simulated(card):
    """Nor is abTEM cited for them, and whether people may see them is left open."""
    facts = gather(card)
    own = dataclasses.replace(facts, fields=({"physics": images.PHYSICS, "specimen": {"kind": "image", "structure": "a",
                                                                                      "prototype": "image a"}},) * 3)
    text = datasheet.readme(own, Publication(version="1.0.0", date="2026-01-02"), "")
    assert "Everything is simulated" not in text
    assert "- synthetic" not in text
    assert "not on record" in text
    assert "abTEM" not in text.partition("## Citation")[2]


def test_the_card_knows_the_names_that_fields_give_to_their_physics():
    """A name that changes there would silently cost citations and limits here."""
    assert multislice._Prism.physics == facts_of.PRISM
    assert multislice._PlaneWaves.physics == multislice._Positions.physics == facts_of.MULTISLICE
    assert "superposed" in multislice._PlaneWaves.method


def test_stages_are_cited_where_they_can_happen(card, tmp_path):
    """Row jitter is in the recipe; hum is too, but with probability 0; drift is not."""
    assert "Lobato, Friedrich" in cited(card)
    assert "Jones and Nellist" not in cited(card)
    assert "Ophus, Ciston" not in cited(card)
    assert "Lobato, Friedrich" not in cited(build(tmp_path, distort={"detector": [{"stage": "poisson"}]}))


def test_citations_within_the_text_have_the_numbers_of_the_list(text):
    """A docstring's own [1]_ would lead nowhere."""
    assert "]_" not in text
    number = re.search(r"Counted electrons N ~ Poisson\(λ\) \[(\d+)\]", text)[1]
    assert re.search(rf"^{number}\. Reimer", text, re.M)


def test_every_stage_names_its_works_on_one_line():
    """The docstrings of all stages are read as they are written, over several lines too."""
    from typing import get_args

    from emsynth.distortion import ArtefactStage, CameraStage, DetectorStage, ScanStage

    unions = (ScanStage, DetectorStage, CameraStage, ArtefactStage)
    stages = [stage for union in unions for stage in get_args(get_args(union)[0])]
    found = [text for stage in stages for text in literature.cited(stage)]
    assert len(found) >= sum("References" in (stage.__doc__ or "") for stage in stages) > 15
    assert all(re.search(r"\(\d{4}\)", text) and "\n" not in text and "  " not in text for text in found)


def test_the_code_that_opens_it_runs(card, text, monkeypatch):
    """The blocks of the card are executed as a reader would."""
    monkeypatch.chdir(card.parent)
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    space: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object at .* is not recognized")
        exec(blocks[0], space)
    assert space["truth"].shape == space["distorted"].shape == (fakes.SIZE, fakes.SIZE)
    assert "emsynth.stream(" in blocks[1]


def test_the_table_reads_back_exactly(card):
    """Every scalar of every sample, with all of its digits."""
    rows = list(csv.DictReader((card / "samples.csv").read_text().splitlines()))
    with store.open_dataset(card) as held:
        assert [row["split"] for row in rows] == held.split.values.tolist()
        for name in ("sampling", "gain", "expected_counts"):
            assert [float(row[name]) for row in rows] == held[name].values.tolist()
    assert [int(row["index"]) for row in rows] == list(range(10))


@pytest.mark.parametrize("unknown", [{}, {"thickness": float("nan")}])
def test_mlcroissant_loads_the_metadata_without_complaint_and_reads_the_records(tmp_path, no_pictures, caplog, unknown):
    """The official library finds neither an error nor a warning, and the samples are there."""
    croissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed (extra dev)")
    path = build(tmp_path, **unknown)
    write_card(path, publication=Publication(creators=("A. Nobody",), contact="nobody", url="https://example.org"))
    with caplog.at_level(logging.WARNING):
        found = croissant.Dataset(jsonld=path / "croissant.json")
    issues = found.metadata.ctx.issues
    assert (issues.errors, issues.warnings, caplog.messages) == (set(), set(), [])
    records = list(found.records("samples"))
    with store.open_dataset(path) as held:
        assert [r["samples/expected_counts"] for r in records] == held.expected_counts.values.tolist()
        assert [r["samples/prototype"].decode() for r in records] == held.prototype.values.tolist()
    assert [r["samples/index"] for r in records] == list(range(10))


def test_what_was_given_once_is_remembered(card, tmp_path, no_pictures):
    """A card made anew keeps who made the data set; what is given again replaces it."""
    copy = shutil.copytree(card, tmp_path / "fake.zarr")
    write_card(copy, publication=Publication("Fakes", ("A. Nobody",), "nobody", "https://example.org", "2.1.0",
                                             "2026-01-02"))
    text = write_card(copy, publication=Publication(version="2.2.0")).read_text()
    assert "# Fakes\n" in text
    assert "author = {A. Nobody}" in text
    assert "Maintained by: nobody." in text
    assert "| version | 2.2.0 |" in text
    assert "| dated | 2026-01-02 |" in text


def test_a_folder_of_its_own_leaves_the_data_set_alone(tmp_path, no_pictures):
    """With --out nothing is written into the store, so it may be read-only."""
    path = build(tmp_path)
    before = sorted(path.rglob("*"))
    assert write_card(path, tmp_path / "card") == tmp_path / "card" / "README.md"
    assert sorted(path.rglob("*")) == before
    assert len(list((tmp_path / "card").iterdir())) == 4


def test_an_unfinished_data_set_is_refused_with_the_way_out(tmp_path):
    """By the verb, in one line, without a traceback."""
    said = CliRunner().invoke(app, ["card", str(build(tmp_path, shards=2))])
    assert said.exit_code == 1
    assert "is not finished (3 of 3 fields, 2 of 3 shards)" in said.stderr
    assert "--resume" in said.stderr
    assert len(said.stderr.splitlines()) == 1


@pytest.mark.parametrize(("file", "said"), [("truth/c/1/0/0", "shard 1: truth: checksum differs"),
                                            ("zarr.json", "metadata: group: checksum differs")])
def test_a_damaged_data_set_is_refused(tmp_path, file, said):
    """One flipped bit is noticed before anything is said about the data."""
    path = build(tmp_path)
    content = bytearray((path / file).read_bytes())
    content[-20] ^= 1
    (path / file).write_bytes(content)
    with pytest.raises(StoreError, match=said if file != "zarr.json" else "zarr.json"):
        write_card(path)


@pytest.mark.parametrize("wrong", [{"date": "tomorrow"}, {"version": "1.0"}])
def test_a_date_or_version_that_is_none_is_refused(card, tmp_path, wrong):
    """Before anything is written."""
    with pytest.raises(StoreError, match=r"give YYYY-MM-DD|MAJOR"):
        write_card(card, tmp_path / "card", Publication(**wrong))
    assert not (tmp_path / "card").exists()


def test_ranges_are_written_as_people_do():
    """Whole numbers stay whole."""
    assert span([0.0, 1170.0]) == "0 to 1,170"
    assert span([0.325, 976.2]) == "0.325 to 976"
    assert span(np.array([5, 5])) == "5"
