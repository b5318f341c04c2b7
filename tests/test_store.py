"""The store: what is written comes back, one writer at a time, and no damage goes unseen."""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from pathlib import Path

import fakes
import numpy as np
import pytest
import xarray

from emsynth import store
from emsynth.errors import IntegrityError, StoreError, StoreExistsError
from emsynth.store import claims, manifest


@pytest.fixture(scope="module")
def recipe():
    return fakes.recipe()


@pytest.fixture
def empty(tmp_path, recipe):
    outlines = [fakes.outline(recipe, j) for j in range(recipe.fields)]
    return store.create(tmp_path / "new" / "fake.zarr", recipe, outlines).path


@pytest.fixture
def full(empty, recipe):
    for j in range(recipe.fields):
        store.write_field(empty, j, fakes.simulate(recipe, j))
    for n in range(3):
        write_shard(empty, n, recipe)
    return empty


def write_shard(path, number, recipe):
    wanted = store.open_store(path).samples_of(number)
    store.write_shard(path, number, [fakes.render(recipe, i) for i in wanted])


def same(one, two):
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, two, strict=True))


def test_a_sample_comes_back_bit_for_bit(full, recipe):
    for i in (0, 7, 9):
        kept, made = store.read_kept(full, i), store.as_kept(fakes.render(recipe, i))
        assert kept.keys() == made.keys()
        assert same(kept.values(), made.values())
        assert {name: a.dtype for name, a in kept.items()} == {name: a.dtype for name, a in made.items()}
        assert store.read_sample(full, i).drawn == recipe


def test_a_field_comes_back_bit_for_bit(full, recipe):
    for j in range(recipe.fields):  # field 0 has no atom column
        back, made = store.read_field(full, j), fakes.simulate(recipe, j)
        assert np.array_equal(back.image, made.image)
        assert np.array_equal(back.columns.position, made.columns.position)
        assert (back.provenance, back.sampling, back.detectors) == (made.provenance, made.sampling, made.detectors)


def test_xarray_opens_every_array_without_a_warning(full):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_zarr(full, consolidated=False) as opened:
            held = opened.load()
    assert held.truth.dims == ("sample", "y", "x")
    assert held.displacement.dims == ("sample", "axis", "y", "x")
    assert list(held.axis.values) == ["row", "col"]
    assert held.displacement.dtype == np.float16
    assert held.split.values.tolist() == [("train", "val", "test")[i % 3] for i in range(10)][:10]
    assert all(type(text) is str for text in held.split.values.tolist())
    assert held.truth.attrs["units"] == "ADU"


def test_nan_is_padding_and_nothing_else(full):
    with store.open_dataset(full) as held:
        for name, array in held.variables.items():
            if array.dtype.kind == "f" and not str(name).startswith("column_"):
                assert np.isfinite(array.values).all(), name
        padded = np.arange(held.sizes["column"]) >= held.column_count.values[:, None]
        assert np.array_equal(np.isnan(held.column_intensity.values), padded)
        assert np.array_equal(np.isnan(held.column_position.values), np.broadcast_to(padded[..., None], (10, 5, 2)))
        assert np.array_equal(held.column_number.values == 0, padded)


def test_what_is_not_built_is_nan(empty, recipe):
    write_shard(empty, 1, recipe)
    with store.open_dataset(empty) as held:
        assert np.isnan(held.truth.values).all(axis=(1, 2)).tolist() == [True] * 4 + [False] * 4 + [True] * 2
    with pytest.raises(StoreError, match="shard 0 is not finished"):
        store.read_sample(empty, 0)


def test_open_dataset_is_lazy(full):
    with store.open_dataset(full) as held:
        assert held.truth.chunks == ((4, 4, 2), (16,), (16,))
        assert held.attrs["recipe"]["samples"] == 10


def test_the_same_samples_give_the_same_bytes(full, tmp_path, recipe):
    again = store.create(tmp_path / "again.zarr", recipe, [fakes.outline(recipe, 2)]).path
    for n in (2, 0, 1):
        write_shard(again, n, recipe)
    for j in (1, 2, 0):
        store.write_field(again, j, fakes.simulate(recipe, j))
    assert store.checksums(again) == store.checksums(full)
    assert set(store.checksums(full)) == {"total", "store", *(f"shard-0000{n}" for n in range(3)),
                                          *(f"field-0000{n}" for n in range(3))}


def test_a_half_written_shard_is_written_again(full, recipe):
    before = store.checksums(full)
    (full / "manifest" / "shard-00001.json").unlink()
    (full / "truth" / "c" / "1" / "0" / "0").write_bytes(b"half")
    write_shard(full, 1, recipe)
    assert store.checksums(full) == before
    assert store.verify(full) == []


def test_wrong_samples_are_refused(empty, recipe):
    with pytest.raises(StoreError, match="shard 1 needs samples 4 to 7"):
        store.write_shard(empty, 1, [fakes.render(recipe, i) for i in range(4)])


def test_a_sound_store_has_no_problems(full):
    assert store.verify(full) == []


def test_a_flipped_byte_is_named(full):
    path = full / "distorted" / "c" / "2" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert store.verify(full) == ["shard 2: distorted: checksum differs: distorted/c/2/0/0"]


def test_a_truncated_shard_is_named(full):
    path = full / "truth" / "c" / "0" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-5])
    problem, = store.verify(full)
    assert problem.startswith("shard 0: truth: truncated")
    with pytest.raises(IntegrityError, match="shard 0 cannot be read"):
        store.read_sample(full, 0)


def test_missing_and_foreign_files_are_named(full):
    (full / "fields" / "1" / "image" / "zarr.json").unlink()
    (full / "truth" / "notes.txt").write_text("mine")
    (full / "zarr.json").write_text((full / "zarr.json").read_text() + " ")
    assert [p.split(":")[:2] for p in store.verify(full)] == [
        ["metadata", " group"], ["field 1", " image"], ["truth/notes.txt", " not part of this store"]]


def test_an_unfinished_shard_and_a_damaged_manifest_are_named(full):
    (full / "manifest" / "shard-00001.json").unlink()
    (full / "manifest" / "field-00002.json").write_text("{")
    assert [p[:8] for p in store.verify(full)] == ["field 2:", "shard 1:"]


def test_only_one_process_can_claim(empty):
    assert claims.claim(empty, "shard-00000")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert not pool.apply(claims.claim, (empty, "shard-00000"))
        claims.release(empty, "shard-00000")
        assert pool.apply(claims.claim, (empty, "shard-00000"))
        assert not claims.claim(empty, "shard-00000")
        assert str(claims.owner(empty, "shard-00000")).startswith("process ")
        claims.release(empty, "shard-00000")  # not ours to give back
        assert not claims.claim(empty, "shard-00000")


def test_the_claim_of_a_dead_process_is_taken_over(empty):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(claims.claim, (empty, "shard-00000"))
    pool.join()
    assert claims.claim(empty, "shard-00000")


def test_a_recycled_process_number_does_not_keep_a_claim(empty):
    mine = json.dumps({**vars(claims.myself()), "started": "1"})
    claims.file_of(empty, "field-00000").write_text(mine)
    assert claims.claim(empty, "field-00000")


def test_a_claim_from_another_machine_stands(empty):
    other = json.dumps({**vars(claims.myself()), "host": "elsewhere"})
    claims.file_of(empty, "field-00000").write_text(other)
    assert not claims.claim(empty, "field-00000")


def test_a_claim_from_another_container_stands(empty):
    """There the process number means another process, or none, on a machine of the same name."""
    other = json.dumps({**vars(claims.myself()), "started": "1", "namespace": "pid:[1]"})
    claims.file_of(empty, "field-00000").write_text(other)
    assert not claims.claim(empty, "field-00000")


def test_a_damaged_part_that_a_live_process_holds_is_left_to_it(full):
    (full / "truth" / "c" / "1" / "0" / "0").write_bytes(b"half")
    other = json.dumps({**vars(claims.myself()), "host": "elsewhere"})
    claims.file_of(full, "shard-00001").write_text(other)
    assert manifest.give_up_damaged(full) == []
    claims.file_of(full, "shard-00001").unlink()
    assert [p.split(":")[0] for p in manifest.give_up_damaged(full)] == ["shard 1"]
    assert claims.live(full) == {}


def test_the_way_out_is_that_of_the_damage(full):
    def advice():
        return [step.split()[0] for step in store.ways_out(store.verify(full)).split("; ")]

    (full / "truth" / "notes.txt").write_text("mine")
    assert advice() == ["remove"]
    (full / "axis" / "c" / "0").write_bytes(b"row")
    assert advice() == ["restore", "remove"]
    (full / "truth" / "notes.txt").unlink()
    (full / "manifest" / "shard-00001.json").unlink()
    assert advice() == ["restore", "emsynth"]


def test_what_exists_is_left_alone(full, recipe, tmp_path):
    before = store.checksums(full)
    with pytest.raises(StoreExistsError, match="already exists; --resume to go on, --overwrite to replace it"):
        store.create(full, recipe, [])
    with pytest.raises(StoreExistsError):
        store.create(tmp_path, recipe, [])
    assert store.checksums(full) == before


def test_overwrite_replaces_a_store(full, recipe):
    store.create(full, recipe, [], overwrite=True)
    assert not store.open_store(full).finished("shard")
    assert [p.name for p in full.parent.iterdir()] == [full.name]


def test_overwrite_refuses_what_is_not_a_store(tmp_path, recipe):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years")
    with pytest.raises(StoreExistsError, match="not an emsynth data set"):
        store.create(tmp_path / "thesis", recipe, [], overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years"


@pytest.mark.parametrize(("mark", "said"), [("zarr.json", "no zarr.json that says"),
                                            ("manifest/store.json", "store.json is missing")])
def test_overwrite_says_which_mark_of_a_store_is_lost(empty, recipe, mark, said):
    (empty / mark).unlink()
    with pytest.raises(StoreExistsError, match=said):
        store.create(empty, recipe, [], overwrite=True)


def test_an_overwrite_that_fails_leaves_the_old_store(full, recipe, monkeypatch):
    before, rename = store.checksums(full), Path.rename

    def failing(self, target):
        if self.name.endswith(".new"):
            raise OSError(5, "the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StoreError, match="the disk is gone"):
        store.create(full, recipe, [], overwrite=True)
    assert store.checksums(full) == before
    assert [p.name for p in full.parent.iterdir()] == [full.name]


def test_overwrite_refuses_a_store_in_the_making(empty, recipe):
    assert claims.claim(empty, "shard-00002")
    with pytest.raises(StoreExistsError, match=r"is writing shard 2"):
        store.create(empty, recipe, [], overwrite=True)


def test_a_place_that_cannot_be_written(tmp_path, recipe):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be created.*another --out"):
        store.create(tmp_path / "file" / "below.zarr", recipe, [])


def test_going_on_with_another_recipe_says_what_differs(empty):
    with pytest.raises(StoreError, match=r"differs in seed \(1 there, 2 here\), samples \(10 there, 11 here\)"):
        store.join(empty, fakes.recipe(samples=11, seed=2))


def test_describe_counts_what_is_there(full, recipe):
    said = dict(store.describe(full))
    assert said["complete"] == "yes"
    assert said["splits"] == "train 4, val 3, test 3"
    assert said["phonons"] == "2 configurations; standard error of the mean: HAADF 3 to 9 %"
    (full / "manifest" / "shard-00002.json").unlink()
    said = dict(store.describe(full))
    assert said["complete"] == "no: 3 of 3 fields, 2 of 3 shards are finished; build with --resume to go on"
    assert said["splits"] == "train 3, val 3, test 2"


@pytest.mark.parametrize(("content", "message"), [
    (None, "there is no such data set"), ("", "no zarr.json"), ("{", "damaged"),
    ('{"attributes": {}}', "not an emsynth data set"),
    ('{"attributes": {"generator": "emsynth", "format_version": 9}}', "format_version 9 is unknown")])
def test_not_a_store(tmp_path, content, message):
    path: Path = tmp_path / "x.zarr"
    if content is not None:
        path.mkdir()
    if content:
        (path / "zarr.json").write_text(content)
    with pytest.raises(StoreError, match=message):
        store.open_store(path)


def test_the_store_names_no_machine(full):
    host = claims.myself().host
    for path in full.rglob("*.json"):
        assert f'"{host}"' not in path.read_text()
        assert os.fspath(full.parent) not in path.read_text()
