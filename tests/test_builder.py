"""The builder: however the work is cut, stopped and taken up again, the same bytes come out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import fakes
import numpy as np
import pytest

from emsynth import builder, store
from emsynth.builder import repetition, workers
from emsynth.builder.tasks import Engine, FieldsAtHand, FieldTask, ShardTask
from emsynth.distortion import Chain
from emsynth.errors import EmsynthError, FieldError, IntegrityError, RecipeError, StoreError, StoreExistsError
from emsynth.recipe import Recipe
from emsynth.specimen import Crystal
from emsynth.store import claims

FAKE = Engine(fakes.outline, fakes.simulate, fakes.render)


@pytest.fixture(scope="module")
def recipe():
    return fakes.recipe()


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A complete store, built in one go by one worker; not to be changed."""
    return builder.build(recipe, tmp_path_factory.mktemp("whole") / "w.zarr", workers=1, engine=FAKE)


class Listener:
    def __init__(self):
        self.done, self.notes, self.phases = [], [], []

    def begin(self, phase, total):
        self.phases.append(phase)

    def step(self, amount, what):
        self.done.append(what)

    def note(self, message):
        self.notes.append(message)


def start(path, function="render", what="", count=2):
    """A build in a process group of its own, as a user's shell would start it."""
    script = textwrap.dedent(f"""
        import signal
        import fakes
        from emsynth import builder
        from emsynth.builder.tasks import Engine
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        builder.build(fakes.recipe(), {str(path)!r}, workers={count}, engine=Engine(fakes.outline, fakes.simulate,
                      fakes.{function}){what})
        """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True,
                            stderr=subprocess.PIPE, text=True)


def wait_for(path: Path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} did not come")


def test_a_finished_store_is_sound_and_complete(whole):
    assert store.verify(whole) == []
    assert store.open_store(whole).complete
    assert list((whole / "claims").glob("[!.]*-*")) == []


def test_two_workers_make_the_same_bytes_as_one(recipe, whole, tmp_path):
    listener = Listener()
    two = builder.build(recipe, tmp_path / "two.zarr", workers=2, engine=FAKE, progress=listener)
    assert store.checksums(two) == store.checksums(whole)
    assert listener.phases == ["specimens", "fields", "shards"]
    assert sorted(listener.done[-6:]) == [f"{kind} {n}" for kind in ("field", "shard") for n in range(3)]


def test_slices_make_the_same_bytes(recipe, whole, tmp_path):
    path = tmp_path / "sliced.zarr"
    builder.build(recipe, path, workers=1, fields=range(2, 3), engine=FAKE)
    assert store.open_store(path).finished("field") == {2}
    builder.build(recipe, path, workers=1, shards=range(2, 3), engine=FAKE)
    assert store.open_store(path).finished("field") == {0, 2}  # samples 8 and 9 are cut from fields 2 and 0
    builder.build(recipe, path, workers=1, shards=range(0, 2), engine=FAKE)
    assert store.checksums(path) == store.checksums(whole)


def test_four_jobs_of_an_array_at_the_same_time_share_one_store(whole, tmp_path):
    """Any of them may create it; some fields and a shard are the task of several."""
    path = tmp_path / "shared.zarr"
    parts = ("fields=range(0, 2)", "fields=range(1, 3)", "shards=range(0, 2)", "shards=range(1, 3)")
    running = [start(path, what=f", {part}", count=1) for part in parts]
    assert [process.wait(60) for process in running] == [0] * 4, [p.stderr.read() for p in running]
    assert store.verify(path) == []
    assert store.checksums(path) == store.checksums(whole)
    assert sorted(path.parent.iterdir()) == [path]


def test_killed_and_resumed_makes_the_same_bytes(recipe, whole, tmp_path):
    path = tmp_path / "killed.zarr"
    process = start(path, "slow_render")
    wait_for(path / "claims" / "shard-00000")
    time.sleep(0.3)
    process.kill()  # the parent only: its workers have to notice
    process.wait()
    assert not store.open_store(path).complete
    builder.build(recipe, path, workers=2, resume=True, engine=FAKE)
    assert store.checksums(path) == store.checksums(whole)
    assert store.verify(path) == []


def test_resume_makes_a_damaged_part_again(recipe, whole, tmp_path):
    """A flipped byte and a torn manifest: both parts are named and come out as they were."""
    path = tmp_path / "damaged.zarr"
    shutil.copytree(whole, path)
    image = path / "distorted" / "c" / "1" / "0" / "0"
    image.write_bytes(bytes([image.read_bytes()[0] ^ 1]) + image.read_bytes()[1:])
    (path / "manifest" / "field-00002.json").write_text("{")
    listener = Listener()
    builder.build(recipe, path, workers=1, resume=True, engine=FAKE, progress=listener)
    assert [note for note in listener.notes if "shard 1: distorted: checksum differs" in note]
    assert listener.done[-2:] == ["field 2", "shard 1"]
    assert store.checksums(path) == store.checksums(whole)


def test_a_damaged_field_makes_no_shard(recipe, whole, tmp_path):
    path = tmp_path / "wrong.zarr"
    builder.build(recipe, path, workers=1, fields=range(3), engine=FAKE)
    image = next(p for p in (path / "fields" / "1" / "image" / "c").rglob("*") if p.is_file())
    image.write_bytes(bytes([image.read_bytes()[0] ^ 1]) + image.read_bytes()[1:])
    with pytest.raises(IntegrityError, match=r"field 1: image: checksum differs.*--resume"):
        builder.build(recipe, path, workers=1, shards=range(1), engine=FAKE)
    assert not store.open_store(path).finished("shard")
    builder.build(recipe, path, workers=1, resume=True, engine=FAKE)
    assert store.checksums(path) == store.checksums(whole)


@pytest.mark.parametrize(("name", "said"), [("axis/c/0", "metadata: axis: file is missing: axis/c/0"),
                                            ("manifest/store.json", "manifest/store.json is missing")])
def test_resume_says_that_it_cannot_mend_the_metadata(recipe, whole, tmp_path, name, said):
    path = tmp_path / "metadata.zarr"
    shutil.copytree(whole, path)
    (path / name).unlink()
    with pytest.raises(StoreError, match=f"{said}, and --resume cannot make it again; restore it"):
        builder.build(recipe, path, workers=1, resume=True, engine=FAKE)


def test_a_store_that_another_build_replaced_is_left_to_it(recipe, whole, tmp_path):
    path = tmp_path / "replaced.zarr"
    shutil.copytree(whole, path)
    (path / "manifest" / "field-00001.json").unlink()
    (path / "manifest" / "shard-00001.json").unlink()
    for task in (FieldTask, ShardTask):
        with pytest.raises(StoreError, match="another build replaced it"):
            task(path, fakes.recipe(seed=2), 1, 1.0, FAKE).run()
    assert claims.live(path) == {}


def test_the_folder_of_a_structure_file_leaves_no_trace(recipe, tmp_path, monkeypatch):
    """Same file in two folders, same bytes; and replay does not ask for the file."""
    monkeypatch.setattr(repetition, "render", fakes.render)
    built = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "mine.cif"
        file.write_text("data_mine")
        with_file = recipe.model_copy(update={"specimen": Crystal(file=str(file))})
        built.append(builder.build(with_file, tmp_path / f"{folder}.zarr", workers=1, engine=FAKE))
        builder.build(with_file, built[-1], workers=1, resume=True, engine=FAKE)
        file.unlink()
    assert store.checksums(built[0]) == store.checksums(built[1])
    assert store.open_store(built[0]).attributes["recipe"]["specimen"]["file"] == "mine.cif"
    assert str(tmp_path) not in store.read_kept(built[0], 3)["drawn"].item()
    assert builder.replay(built[0], 3).same


def test_fields_that_no_sample_shows_are_not_made(tmp_path):
    path = builder.build(fakes.recipe(samples=2, fields=3), tmp_path / "few.zarr", workers=1, engine=FAKE)
    assert store.open_store(path).finished("field") == {0, 1}
    assert store.open_store(path).complete
    assert store.verify(path) == []


def test_build_loads_a_recipe_by_its_path(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("{name: r, samples: 2, fields: 1, image: {size: 16}, specimen: {kind: crystal, structure: Au}}")
    path = builder.build(file, tmp_path / "r.zarr", workers=1, engine=FAKE)
    assert store.open_store(path).complete


def test_interrupted_says_one_line_and_can_go_on(recipe, whole, tmp_path):
    path = tmp_path / "interrupted.zarr"
    process = start(path, "slow_render")
    wait_for(path / "claims" / "shard-00001")
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert said.count("Traceback") == 1  # the script's own: the command line catches it
    assert said.strip().endswith("stopped; nothing that is finished is lost; go on with --resume")
    builder.build(recipe, path, workers=2, resume=True, engine=FAKE)
    assert store.checksums(path) == store.checksums(whole)


def test_a_killed_worker_names_its_task_and_the_rest_is_kept(recipe, whole, tmp_path):
    path = tmp_path / "deadly.zarr"
    with pytest.raises(EmsynthError, match=r"shard 1: its worker process was killed.*--resume"):
        builder.build(recipe, path, workers=2, engine=Engine(fakes.outline, fakes.simulate, fakes.deadly_render))
    assert 0 in store.open_store(path).finished("shard")
    builder.build(recipe, path, workers=1, resume=True, engine=FAKE)
    assert store.checksums(path) == store.checksums(whole)


def test_an_error_in_a_task_names_it(recipe, tmp_path):
    path = tmp_path / "failing.zarr"
    with pytest.raises(FieldError, match="field 1: the phonons did not settle; nothing that is finished is lost"):
        builder.build(recipe, path, workers=1, engine=Engine(fakes.outline, fakes.failing_simulate, fakes.render))
    assert store.open_store(path).finished("field") == {2}  # the longest is first


def test_an_error_in_an_outline_comes_before_anything_is_created(recipe, tmp_path):
    path = tmp_path / "bad.zarr"
    with pytest.raises(FieldError, match="HAADF reaches too far"):
        builder.build(recipe, path, workers=1, engine=Engine(fakes.bad_outline, fakes.simulate, fakes.render))
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_refused_before_any_work(recipe, whole):
    with pytest.raises(StoreExistsError, match="--resume to go on"):
        builder.build(recipe, whole, engine=FAKE)
    with pytest.raises(StoreExistsError, match="neither --resume"):
        builder.build(recipe, whole, resume=True, overwrite=True, engine=FAKE)


def test_resume_of_another_recipe_is_refused(whole):
    with pytest.raises(StoreError, match=r"differs in samples \(10 there, 12 here\)"):
        builder.build(fakes.recipe(samples=12), whole, resume=True, engine=FAKE)


def test_a_place_that_cannot_be_written_is_refused_before_any_work(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"is not a folder; give another --out"):
        builder.build(recipe, tmp_path / "file" / "x.zarr", engine=FAKE)


def test_a_finished_build_resumes_to_nothing(recipe, whole):
    listener = Listener()
    before = store.checksums(whole)
    builder.build(recipe, whole, workers=1, resume=True, engine=FAKE, progress=listener)
    assert store.checksums(whole) == before
    assert listener.done == []


def test_waiting_for_another_machine_says_so(recipe, whole, tmp_path):
    path = tmp_path / "waiting.zarr"
    builder.build(recipe, path, workers=1, fields=range(3), engine=FAKE)
    claim = claims.file_of(path, "shard-00001")
    claim.write_text('{"pid": 1, "started": "1", "host": "elsewhere", "boot": ""}')

    class Impatient(Listener):
        def note(self, message):
            super().note(message)
            claim.unlink()

    listener = Impatient()
    builder.build(recipe, path, workers=1, resume=True, engine=FAKE, progress=listener)
    assert listener.notes[0].startswith("shard 1 is being made by process 1 on elsewhere: waiting for it")
    assert store.checksums(path) == store.checksums(whole)


@pytest.mark.parametrize(("text", "wanted"), [("1:3", range(1, 3)), (":2", range(2)), ("2:", range(2, 4)),
                                              ("3", range(3, 4)), (":", range(4))])
def test_part_range(text, wanted):
    assert builder.part_range(text, 4, "--shards") == wanted


@pytest.mark.parametrize("text", ["", "4:5", "2:2", "3:1", "a:b", "-1:2", "0:9", "1:2:3"])
def test_part_range_says_what_is_there(text):
    with pytest.raises(RecipeError, match=r"--shards .*not a part of 0:4"):
        builder.part_range(text, 4, "--shards")


def test_the_plan_counts_without_building(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cost = builder.plan(recipe, workers=1, engine=FAKE)
    assert (cost.samples, cost.fields, cost.shards, cost.cached, cost.structures) == (10, 3, 3, 0, 3)
    assert cost.splits == {"train": 4, "val": 3, "test": 3}
    assert cost.seconds > 0
    assert cost.bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_a_slice_counts_what_it_needs(recipe):
    cost = builder.plan(recipe, workers=1, shards=range(2, 3), engine=FAKE)
    assert (cost.samples, cost.fields, cost.shards) == (2, 2, 1)
    assert cost.splits == {"train": 1, "test": 1}  # samples 8 and 9, of fields 2 and 0


def test_resume_mends_a_shard_that_lost_bytes(recipe, whole, tmp_path):
    path = tmp_path / "hurt.zarr"
    shutil.copytree(whole, path)
    (path / "truth" / "c" / "1" / "0" / "0").write_bytes(b"short")
    (path / "fields" / "2" / "image" / "zarr.json").unlink()
    builder.build(recipe, path, workers=1, resume=True, engine=FAKE)
    assert store.verify(path) == []
    assert store.checksums(path) == store.checksums(whole)


def test_fields_at_hand_are_few_but_never_none(whole):
    at_hand = FieldsAtHand(limit=1)
    one = at_hand.get(whole, 0)
    assert at_hand.get(whole, 0) is one
    at_hand.get(whole, 1)
    assert at_hand.get(whole, 0) is not one


def test_workers_have_one_thread_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with workers.Team(1) as team:
        found = []
        team.run([Environment()], lambda task, result: found.append(result))
    assert found == ["1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"


class Environment:
    name = "environment"

    def run(self):
        return os.environ["OMP_NUM_THREADS"]


def test_replay_finds_the_same_sample(whole, monkeypatch):
    monkeypatch.setattr(repetition, "render", fakes.render)
    found = builder.replay(whole, 7)
    assert found == builder.Replay(7, True, True, (), ())
    assert str(found) == "sample 7: the same bit for bit"


def test_replay_names_what_differs(whole, monkeypatch):
    def other(recipe, index, field=None):
        sample = fakes.render(recipe, index, field)
        sample.truth[3, 4] += 1
        return sample

    monkeypatch.setattr(repetition, "render", other)
    found = builder.replay(whole, 7)
    assert not found.same
    assert [(d.name, d.count) for d in found.differences] == [("truth", 1)]


def test_replay_compares_what_a_drawn_recipe_means(whole, monkeypatch):
    """A key that came later, with the default that it always had, is no difference."""
    monkeypatch.setattr(repetition, "render", fakes.render)
    kept = store.read_kept(whole, 7)
    old = json.loads(kept["drawn"].item())
    del old["image"]["flip"], old["store"]
    monkeypatch.setattr(store, "read_kept", lambda *_: {**kept, "drawn": np.asarray(json.dumps(old), dtype=object)})
    assert builder.replay(whole, 7) == builder.Replay(7, True, True, (), ())


def test_what_is_drawn_otherwise_is_named_by_its_key():
    one = fakes.recipe().model_copy(update={"distort": Chain.model_validate({"scan": [{"stage": "row_jitter"}]})})
    two = Recipe.model_validate({**one.model_dump(), "seed": 2, "distort": {"scan": [
        {"stage": "row_jitter", "sigma": 0.25}, {"stage": "drift"}]}})
    texts = (np.asarray(recipe.model_dump_json(), dtype=object) for recipe in (one, two))
    found = repetition.compare("drawn", *texts)
    assert str(found) == "drawn: seed, distort.scan.row_jitter.sigma, distort.scan.drift drawn otherwise"
    assert not found.within


@pytest.mark.parametrize(("kept", "again", "wanted"), [
    (np.asarray("Au", object), np.asarray("Ag", object), "x: was 'Au', and is 'Ag' now"),
    (np.zeros((2, 2)), np.zeros(3), "x: had shape (2, 2), and has (3,) now"),
    (np.array([1.0, 2.0]), np.array([1.0, np.nan]), "x: 1 of 2 values differ, and some are not finite"),
    (np.array([1.0, np.nan, 3.0]), np.array([1.5, np.nan, 3.0]), "x: 1 of 3 values differ, by up to 0.25 of the "
     "range")])
def test_a_difference_without_a_range_is_said_in_words(kept, again, wanted):
    found = repetition.compare("x", kept, again)
    assert str(found) == wanted
    assert not found.within


def test_another_platform_is_compared_within_a_tolerance():
    kept = np.linspace(0, 1, 1000, dtype=np.float32)
    assert repetition.compare("truth", kept, kept.copy()) is None
    close = repetition.compare("truth", kept, kept + np.float32(5e-4))
    assert close is not None
    assert close.within
    far = repetition.compare("truth", kept, kept + np.float32(5e-3))
    assert far is not None
    assert not far.within


def test_real_physics_makes_the_same_bytes_in_any_process(tmp_path, monkeypatch):
    recipe = Recipe.model_validate({
        "name": "tiny", "seed": 3, "samples": 6, "fields": 2, "image": {"size": 64, "pixel_size": 0.2},
        "specimen": {"kind": "crystal", "structure": "Au", "zone_axis": [0, 0, 1], "thickness": 20, "minimum_box": 8},
        "microscope": {"convergence": 20, "detectors": [{"name": "HAADF", "inner": 30, "outer": 45}]},
        "simulate": {"max_angle": 50, "thicknesses": 2, "phonons": {"minimum": 2, "maximum": 2}},
        "distort": {"scan": [{"stage": "row_jitter", "sigma": 0.5}], "detector": [{"stage": "poisson"}]},
        "store": {"shard": 4}})
    found = []
    for count in (1, 2):
        monkeypatch.setenv("EMSYNTH_CACHE", str(tmp_path / f"cache{count}"))
        found.append(builder.build(recipe, tmp_path / f"{count}.zarr", workers=count))
    assert store.checksums(found[0]) == store.checksums(found[1])
    for index in (0, 5):
        assert builder.replay(found[1], index).same
