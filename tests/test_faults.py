"""Damage, foreign parts and full disks: each is named with its file, and --resume mends what can be mended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import fakes
import pytest

from emsynth import builder, store
from emsynth.builder.tasks import Engine
from emsynth.errors import EmsynthError, IntegrityError, StoreError
from emsynth.store import manifest

FAKE = Engine(fakes.outline, fakes.simulate, fakes.render)


@pytest.fixture(scope="module")
def recipe():
    return fakes.recipe()


def complete(path, recipe):
    """A complete store, made without worker processes."""
    store.create(path, recipe, [fakes.outline(recipe, j) for j in range(recipe.fields)])
    for j in range(recipe.fields):
        store.write_field(path, j, fakes.simulate(recipe, j))
    for n in range(3):
        store.write_shard(path, n, [fakes.render(recipe, i) for i in store.open_store(path).samples_of(n)])
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """Not to be changed."""
    return complete(tmp_path_factory.mktemp("whole") / "w.zarr", recipe)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same with another seed."""
    return complete(tmp_path_factory.mktemp("other") / "o.zarr", fakes.recipe(seed=2))


@pytest.fixture
def hurt(whole, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "hurt.zarr")


def flip(path, other):
    file = path / "distorted" / "c" / "2" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)


def truncate(path, other):
    os.truncate(path / "truth" / "c" / "0" / "0" / "0", 100)


def lose(path, other):
    (path / "mask" / "c" / "0" / "0" / "0").unlink()


def lose_a_field(path, other):
    shutil.rmtree(path / "fields" / "2" / "image" / "c")


def take_from_another_build(path, other):
    """All of shard 1 with its manifest: every checksum in it is right."""
    content = json.loads((other / "manifest" / "shard-00001.json").read_text())
    for name in (*content["files"], "manifest/shard-00001.json"):
        shutil.copyfile(other / name, path / name)


FAULTS = {flip: "shard 2: distorted: checksum differs: distorted/c/2/0/0",
          truncate: "shard 0: truth: truncated, 100 of ",
          lose: "shard 0: mask: file is missing: mask/c/0/0/0",
          lose_a_field: "field 2: image: file is missing: fields/2/image/c/0/0/0/0",
          take_from_another_build: "shard 1: manifest of another build (of recipe "}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_verify_names_the_part_and_the_file(fault, hurt, other):
    fault(hurt, other)
    said, = store.verify(hurt)
    assert said.startswith(FAULTS[fault])
    assert "--resume makes damaged and missing parts again" in store.ways_out([said])


def test_resume_mends_all_of_them(hurt, other, whole, recipe):
    for fault in FAULTS:
        fault(hurt, other)
    builder.build(recipe, hurt, workers=1, resume=True, engine=FAKE)
    assert store.verify(hurt) == []
    assert store.checksums(hurt) == store.checksums(whole)


def test_a_slice_makes_a_part_of_another_build_again(hurt, other, whole, recipe):
    """Without --resume nothing is read through, and yet that part does not count as finished."""
    take_from_another_build(hurt, other)
    builder.build(recipe, hurt, workers=1, shards=range(1, 2), engine=FAKE)
    assert store.checksums(hurt) == store.checksums(whole)


def test_a_part_of_another_build_is_not_read(hurt, other):
    take_from_another_build(hurt, other)
    with pytest.raises(IntegrityError, match=r"shard 1: manifest of another build.*--resume"):
        store.read_sample(hurt, 5)


def test_a_manifest_that_does_not_name_its_recipe_is_believed(hurt):
    """As those of format 2."""
    for file in (hurt / "manifest").glob("*-*.json"):
        content = json.loads(file.read_text())
        content.pop("recipe_digest")
        file.write_text(json.dumps(content))
    assert store.verify(hurt) == []
    assert store.open_store(hurt).intact("shard") == {0, 1, 2}


@pytest.fixture
def described(hurt):
    """A data set with a card of one file."""
    (hurt / "README.md").write_text("What this is.\n")
    manifest.write(hurt, manifest.CARD, ["README.md"])
    return hurt


def test_a_card_is_verified_and_is_no_part_of_the_data(described, whole):
    assert store.verify(described) == []
    assert store.checksums(described) == store.checksums(whole)
    (described / "README.md").write_text("What this was.\n")
    problems = store.verify(described)
    assert problems == ["card: too long, 15 of 14 bytes: README.md"]
    assert store.ways_out(problems) == "emsynth card writes the card again"


def test_resume_leaves_the_card(described, recipe):
    lose(described, None)
    builder.build(recipe, described, workers=1, resume=True, engine=FAKE)
    assert (described / "README.md").read_text() == "What this is.\n"
    assert store.verify(described) == []


def test_what_a_killed_build_left_beside_is_removed(hurt, recipe):
    """Empty stores, once they are old, for another process may be about to create one; and what was to be replaced."""
    old, new, replaced = (hurt.with_name(f".{hurt.name}.{end}") for end in ("1.new", "2.new", "3.old"))
    for left in (old, new, replaced):
        shutil.copytree(hurt / "axis", left)
    for left in (old, replaced):
        os.utime(left, (1, 1))
    builder.build(recipe, hurt, workers=1, resume=True, engine=FAKE)
    assert [left.exists() for left in (old, new, replaced)] == [False, True, False]


@pytest.fixture
def disk(tmp_path, whole):
    """A disk on which the data set does not fit; a function that mounts it again with other options."""
    needed = sum(-(-path.stat().st_size // 4096) * 4 for path in whole.rglob("*") if path.is_file())
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)

    try:
        mount(f"size={needed * 2 // 3}k")
    except (OSError, subprocess.CalledProcessError) as reason:
        pytest.skip(f"no small disk can be mounted here: {getattr(reason, 'stderr', reason)}")
    try:
        yield folder, mount
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_and_then_one_that_is_only_to_be_read(disk, recipe, whole):
    """One line; what is finished stays, and with more room the build goes on; what is read-only can be read."""
    folder, mount = disk
    path = folder / "x.zarr"
    with pytest.raises(StoreError, match=r"\d: .*No space left on device.*nothing that is finished is lost") as caught:
        builder.build(recipe, path, workers=1, engine=FAKE)
    assert "\n" not in str(caught.value)
    finished = store.open_store(path).finished("field")
    assert finished
    assert all(problem.endswith("its manifest was removed") for problem in store.verify(path))
    assert not [entry for entry in os.listdir(path / "claims") if "-" in entry]
    mount("remount,size=16m")
    listener = Listener()
    builder.build(recipe, path, workers=1, resume=True, engine=FAKE, progress=listener)
    assert store.checksums(path) == store.checksums(whole)
    assert not {f"field {j}" for j in finished} & set(listener.done)
    (path / "manifest" / "shard-00001.json").unlink()
    mount("remount,ro")
    with pytest.raises(EmsynthError, match="is read-only; make it writable, or a copy"):
        builder.build(recipe, path, workers=1, resume=True, engine=FAKE)
    assert [problem[:8] for problem in store.verify(path)] == ["shard 1:"]
    assert dict(store.describe(path))["complete"].startswith("no: 3 of 3 fields, 2 of 3 shards")
    assert store.read_sample(path, 0).index == 0


class Listener:
    def __init__(self):
        self.done = []

    def begin(self, phase, total):
        pass

    def step(self, amount, what):
        self.done.append(what)

    def note(self, message):
        pass
