"""The stream: the same batches whoever asks and however often, every sample once, and no damaged byte as data."""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil

import fakes
import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st

import emsynth
from emsynth import store
from emsynth.errors import IntegrityError, StoreError, StreamError
from emsynth.recipe import Recipe
from emsynth.store import _chunk_kernels, open_files
from emsynth.store.chunks import LocalArray
from emsynth.streaming.blocks import Blocks
from emsynth.streaming.order import Order
from emsynth.streaming.source import turned

SAMPLES, FIELDS, SHARD = 22, 6, 4


def make(path, codec="lz4"):
    recipe = Recipe.model_validate(fakes.recipe(SAMPLES, FIELDS, SHARD).model_dump() | {
        "store": {"shard": SHARD, "codec": codec},
        "distort": {"scan": [{"stage": "row_jitter"}], "detector": [{"stage": "poisson"}, {"stage": "read_noise"}]}})
    store.create(path, recipe, [fakes.outline(recipe, j) for j in range(FIELDS)])
    for j in range(FIELDS):
        store.write_field(path, j, fakes.simulate(recipe, j))
    for n in range(-(-SAMPLES // SHARD)):
        wanted = store.open_store(path).samples_of(n)
        store.write_shard(path, n, [fakes.render(recipe, i) for i in wanted])
    return path


@pytest.fixture(scope="module", params=["lz4", "none"])
def path(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp("stream") / "fake.zarr", request.param)


@pytest.fixture
def own(path, tmp_path):
    """A copy to damage."""
    return shutil.copytree(path, tmp_path / "own.zarr")


def open_stream(path, **changes):
    return emsynth.stream(path, **({"batch_size": 4, "split": None, "fresh": False} | changes))


def alike(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_stored_batches_are_the_bytes_of_the_store(path):
    """What the direct reader gives is what xarray and zarr read."""
    with emsynth.open_dataset(path) as kept:
        for batch in open_stream(path, also=("displacement", "mask", "gain", "prototype")):
            for name in batch:
                if name != "index":
                    assert np.array_equal(batch[name], kept[name].values[batch.index]), name
            assert batch.truth.dtype == batch.distorted.dtype == np.float32


def test_every_array_is_read_as_zarr_reads_it(path):
    """Text, half precision, partial chunks and padded columns included."""
    group = zarr.open_group(path, mode="r")
    for name, array in group.arrays():
        assert np.array_equal(LocalArray(path, name).whole(), array[...], equal_nan=array.dtype.kind == "f"), name
    stack = group["fields/3/image"][...]
    assert np.array_equal(LocalArray(path, "fields/3/image").whole(), stack)


@pytest.mark.skipif(not _chunk_kernels.USABLE, reason="no crc32c instruction here, or kernels are not compiled")
def test_the_kernel_and_the_library_agree_on_checksums():
    """Around the lengths at which the kernel changes its way."""
    raw = np.random.default_rng(1).integers(0, 256, 70000, np.uint8)
    stretch = 3 * 8 * _chunk_kernels._STRETCH
    for length in [*range(18), stretch - 1, stretch, stretch + 9, 2 * stretch, 69999]:
        assert _chunk_kernels.crc32c(raw[:length]) == google_crc32c.value(raw[:length].tobytes()), length


def test_one_by_one_gives_the_same_as_all_at_once(path, monkeypatch):
    """Where the processor has no instruction for the checksum."""
    quick = list(open_stream(path, also=("mask",)))
    monkeypatch.setattr(_chunk_kernels, "USABLE", False)
    assert all(alike(a, b) for a, b in zip(quick, open_stream(path, also=("mask",)), strict=True))


def test_more_shards_than_files_may_be_open(path, monkeypatch):
    """The one used least is closed, and opened again when it is needed."""
    before = list(open_stream(path, threads=0))
    monkeypatch.setattr(open_files.files(), "most", 2)
    assert all(alike(a, b) for a, b in zip(before, open_stream(path, threads=2), strict=True))


def test_an_epoch_gives_every_sample_once_in_an_order_of_its_own(path):
    """Shuffling loses and repeats nothing."""
    stream = open_stream(path)
    first, second = ([i for batch in stream for i in batch.index] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(SAMPLES))
    assert first != second != list(range(SAMPLES))


@example(n=9, world=4, size=2, drop=False, sets=0)  # one rank has a sample for a step for which the others have none
@given(n=st.integers(1, 60), world=st.integers(1, 7), size=st.integers(1, 9), drop=st.booleans(),
       sets=st.integers(0, 3))
def test_ranks_are_disjoint_and_together_the_split(n, world, size, drop, sets):
    """Whatever the numbers; with equal steps, so that no rank waits for another for ever."""
    samples = np.arange(n) * 3 + 1
    groups = tuple(np.array_split(np.arange(n), 4)) if sets else ()
    if n < world * (size if drop else 1):
        with pytest.raises(StreamError, match="world"):
            Order(samples, size, 5, 0, world, drop_last=drop)
        return
    ranks = [Order(samples, size, 5, r, world, drop_last=drop, groups=groups, sets=sets) for r in range(world)]
    seen = [[rank.batch(2, s) for s in range(rank.steps)] for rank in ranks]
    everything = np.concatenate([batch for rank in seen for batch in rank])
    assert len(set(everything.tolist())) == len(everything)
    assert all(1 <= len(batch) <= size for rank in seen for batch in rank)
    if drop:
        assert len(everything) == n // (world * size) * world * size
    else:
        assert sorted(everything.tolist()) == samples.tolist()
    if size > 1 or drop:
        assert len({len(rank) for rank in seen}) == 1


def test_samples_of_a_set_of_fields_come_together():
    """Where not all fields fit into memory, each is needed in one stretch of an epoch only."""
    samples, of_field = np.arange(40), np.arange(40) % 8
    order = Order(samples, 5, 1, groups=tuple(np.flatnonzero(of_field == j) for j in range(8)), sets=2)
    seen = of_field[order.epoch(0)].reshape(4, 10)
    assert all(len(set(stretch)) == 2 for stretch in seen.tolist())
    assert sorted(seen.ravel().tolist()) == sorted(of_field.tolist())
    assert not np.array_equal(order.epoch(0), order.epoch(1))


@pytest.mark.parametrize("fresh", [False, True])
def test_threads_do_not_change_the_batches(path, fresh):
    """None, one and four give the same ones in the same order, over the end of an epoch."""
    seen = [[batch for stream in [open_stream(path, threads=n, fresh=fresh, seed=3)] for _ in range(2)
             for batch in stream] for n in (0, 1, 4)]
    assert len(seen[0]) == 2 * len(open_stream(path))
    for other in seen[1:]:
        assert all(alike(a, b) for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 4, 5])
def test_stopping_and_resuming_gives_the_same_batches(path, fresh, stop):
    """From a state in another process, and in a loop that was left."""
    whole = list(open_stream(path, fresh=fresh))
    left = open_stream(path, fresh=fresh)
    head = list(itertools.islice(left, stop))
    again = open_stream(path, fresh=fresh, threads=2)
    again.load_state_dict(left.state_dict())
    for tail in (list(again), list(left)):
        assert all(alike(a, b) for a, b in zip(whole, head + tail, strict=True))
    assert again.state_dict()["epoch"] == 1


def test_a_batch_is_a_pure_function_of_its_position(path):
    """Out of order, twice, and among others."""
    stream = open_stream(path, fresh=True, also=("displacement",))
    late = stream.batch(7, 3)
    stream.batch(0, 0)
    assert alike(late, stream.batch(7, 3))
    assert alike(late, open_stream(path, fresh=True, also=("displacement",), threads=0).batch(7, 3))


def test_fresh_pairs_are_never_the_same_twice_and_come_from_their_own_field(path):
    """Other distortions in every epoch and for every seed; sample i looks at field i modulo the number of fields."""
    stream = open_stream(path, fresh=True, batch_size=SAMPLES, shuffle=False)
    first, second, other = stream.batch(0, 0), stream.batch(1, 0), open_stream(
        path, fresh=True, batch_size=SAMPLES, shuffle=False, seed=9).batch(0, 0)
    for a, b in ((first, second), (first, other)):
        assert not any(np.array_equal(x, y) for x, y in zip(a.distorted, b.distorted, strict=True))
    recipe = store.open_store(path).recipe
    from emsynth.fresh import take
    from emsynth.streams import stream_key
    made = take(recipe, store.read_field(path, 8 % FIELDS), stream_key(0, 0, "stream.fresh") >> 65, 8)
    assert np.array_equal(first.distorted[8], made[0].distorted)


def test_fresh_splits_are_those_of_the_fields(path):
    """No prototype in two of them, whichever sample is asked for."""
    of_field = [emsynth.passes.split_of(fakes.PROTOTYPES[j % 3]) for j in range(FIELDS)]
    for split in set(of_field):
        found = emsynth.stream(path, 2, split=split, shuffle=False).samples
        assert {of_field[i % FIELDS] for i in found.tolist()} == {split}
        assert len(found) == sum(of_field[i % FIELDS] == split for i in range(SAMPLES))


def test_fresh_needs_fields_only(own):
    """A library of fields without any pair can be trained from."""
    for name in ("truth", "distorted", "split"):
        shutil.rmtree(own / name / "c")
    for done in (own / "manifest").glob("shard-*"):
        done.unlink()
    assert len(open_stream(own, fresh=True).batch(0, 0).index) == 4
    with pytest.raises(StoreError, match=r"shard 0 \(samples 0 to 3\).*--resume"):
        open_stream(own)


def test_little_memory_gives_every_sample_too(path):
    """Fields that do not fit are read in turn."""
    stream = open_stream(path, fresh=True, memory=1)
    assert sorted(i for batch in stream for i in batch.index) == list(range(SAMPLES))


def test_patches_are_windows_of_the_stored_images(path):
    """Truth, image and displacement are cut at one place, another one in each epoch."""
    stream = open_stream(path, patch=9, also=("displacement",), batch_size=SAMPLES, shuffle=False)
    places = []
    with emsynth.open_dataset(path) as kept:
        for epoch in range(2):
            batch = stream.batch(epoch, 0)
            for i in range(SAMPLES):
                whole = kept.truth.values[i]
                views = np.lib.stride_tricks.sliding_window_view(whole, (9, 9))
                (row, col), = np.argwhere((views == batch.truth[i]).all((2, 3)))
                assert np.array_equal(batch.distorted[i], kept.distorted.values[i, row:row + 9, col:col + 9])
                assert np.array_equal(batch.displacement[i], kept.displacement.values[i, :, row:row + 9, col:col + 9])
                places.append((row, col))
    assert len(set(places)) > SAMPLES // 2
    assert np.ptp(places, axis=0).min() >= 6


def test_fresh_patches_have_their_size(path):
    """And are another place of the field in every epoch."""
    stream = open_stream(path, fresh=True, patch=16)
    assert stream.batch(0, 0).truth.shape == (4, 16, 16)


def test_two_views_share_one_truth(path):
    """Noise2Noise: the same truth, two distortions."""
    batch = open_stream(path, fresh=True, views=2, also=("displacement", "gain")).batch(0, 1)
    assert batch.truth.shape == (4, 16, 16)
    assert batch.distorted.shape == (4, 2, 16, 16)
    assert batch.displacement.shape == (4, 2, 2, 16, 16)
    single = open_stream(path, fresh=True).batch(0, 1)
    assert np.array_equal(batch.truth, single.truth)
    assert np.array_equal(batch.distorted[:, 0], single.distorted)
    assert not np.array_equal(batch.distorted[:, 0], batch.distorted[:, 1])


def test_vectors_turn_with_their_image():
    """A displacement that points at a bright pixel still does after each symmetry of the square."""
    image, vectors = np.zeros((5, 5)), np.zeros((2, 5, 5))
    image[1, 4], vectors[:, 3, 1] = 1.0, (-2, 3)
    for symmetry in itertools.product((False, True), repeat=3):
        seen, moved = turned(image, symmetry), turned(vectors, symmetry, vectors=True)
        (row, col), = np.argwhere(moved.any(0))
        assert seen[row + int(moved[0, row, col]), col + int(moved[1, row, col])] == 1.0


@pytest.mark.parametrize("kind", ["memory", "zip", "fsspec", "store object"])
@pytest.mark.parametrize("fresh", [False, True])
def test_other_stores_give_the_same_batches(path, tmp_path, kind, fresh):
    """Through zarr as straight from the disk."""
    local = open_stream(path, fresh=fresh)
    if kind == "zip":
        place = shutil.make_archive(str(tmp_path / "fake.zarr"), "zip", path)
    elif kind == "fsspec":
        place = path.as_uri()
    elif kind == "store object":
        place = zarr.storage.LocalStore(path)
    else:
        place = zarr.storage.MemoryStore()
        for file in filter(os.path.isfile, path.rglob("*")):
            zarr.core.sync.sync(place.set(file.relative_to(path).as_posix(),
                                          zarr.core.buffer.cpu.Buffer.from_bytes(file.read_bytes())))
    assert all(alike(a, b) for a, b in zip(local, open_stream(place, fresh=fresh), strict=True))


def test_nothing_missing_elsewhere_is_read_as_a_fill_value(own):
    """Zarr itself would give NaN."""
    (own / "distorted/c/2/0/0").unlink()
    with pytest.raises(IntegrityError, match=r"distorted of sample \d+: file is missing: distorted/c/2"):
        list(open_stream(own.as_uri()))


def damage(own, kind):
    file = own / "truth/c/3/0/0"
    if kind == "flipped byte":
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 3] ^= 4
        file.write_bytes(raw)
    elif kind == "truncated":
        os.truncate(file, file.stat().st_size - 9)
    elif kind == "index":
        raw = bytearray(file.read_bytes())
        raw[-30] ^= 1
        file.write_bytes(raw)
    else:
        file.unlink()


@pytest.mark.parametrize(("threads", "kernel"), [(0, True), (2, True), (0, False)])
@pytest.mark.parametrize("kind", ["flipped byte", "truncated", "index", "missing"])
def test_damage_names_file_and_sample_and_is_never_data(path, own, kind, threads, kernel, monkeypatch):
    """Whatever else of the batch is sound."""
    monkeypatch.setattr(_chunk_kernels, "USABLE", kernel and _chunk_kernels.USABLE)
    stream = open_stream(own, batch_size=1, shuffle=False, threads=threads)
    damage(own, kind)
    batches, seen = iter(stream), []
    with pytest.raises(IntegrityError, match=r"truth of sample 1[2-5]: .*truth/c/3/0/0"):
        seen.extend(int(batch.index[0]) for batch in batches)
    assert set(seen) <= set(range(15))
    with emsynth.open_dataset(path) as sound:
        for i in seen:
            assert np.array_equal(stream.batch(0, i).truth[0], sound.truth.values[i])


def test_a_shard_deleted_while_it_is_streamed_is_missed(own):
    """Its file may still be open: what the folder no longer has is not data."""
    stream = open_stream(own, batch_size=1, shuffle=False, threads=0)
    stream.batch(0, 5)
    (own / "truth/c/1/0/0").unlink()
    with pytest.raises(IntegrityError, match="truth of sample 5: file is missing: truth/c/1/0/0"):
        stream.batch(0, 5)


def test_a_shard_that_was_made_again_is_read_again(own):
    """A build that mends a data set under a running training."""
    stream = open_stream(own, batch_size=1, shuffle=False, threads=0)
    before = stream.batch(0, 5)
    recipe = store.open_store(own).recipe
    store.write_shard(own, 1, [fakes.render(recipe, i) for i in range(4, 8)])
    assert alike(before, stream.batch(0, 5))


def test_a_damaged_field_is_not_distorted(own):
    """Its pictures are checked as they are read."""
    file = next((own / "fields/2/image/c").rglob("0"))
    while file.is_dir():
        file = next(file.iterdir())
    raw = bytearray(file.read_bytes())
    raw[20] ^= 1
    file.write_bytes(raw)
    with pytest.raises(IntegrityError, match="fields/2/image"):
        list(open_stream(own, fresh=True))


@pytest.mark.parametrize(("changes", "said"), [
    ({"split": "trian"}, "'trian' is none of 'train', 'val', 'test', None"),
    ({"rank": 2, "world": 2}, "rank: 2 is outside 0 to world - 1 = 1"),
    ({"batch_size": 0}, "batch_size: 0 is not a whole number from 1 on"),
    ({"batch_size": 8.0}, r"batch_size: 8\.0 is not a whole number"),
    ({"batch_size": True}, "batch_size: True is not"),
    ({"rank": "0"}, "rank: '0' is not a whole number from 0 on"),
    ({"world": 0}, "world: 0 is not a whole number from 1 on"),
    ({"shuffle": "no"}, "shuffle: 'no' is neither True nor False"),
    ({"split": ["train"]}, "split: .* is none of"),
    ({"also": "mask"}, r"also: 'mask' is no list of names; give e\.g\."),
    ({"patch": 15, "fresh": True}, "patch: 15 px is too small for a fresh one, at least 16 px"),
    ({"world": 30}, "22 samples do not fill one batch on each of 30 ranks"),
    ({"patch": 17}, "patch: 17 px is outside 1 to 16 px"),
    ({"views": 2}, "take fresh=True"),
    ({"fresh": True, "views": 0}, "views: 0"),
    ({"threads": -1}, "threads: -1"),
    ({"seed": -1}, "seed: -1"),
    ({"also": ("colour",)}, "'colour' is not kept of a sample"),
    ({"also": ("drawn",), "fresh": True}, "'drawn' is not made of a fresh distortion"),
    ({"also": ("column_position",), "patch": 8}, "belongs to the whole image"),
    ({"symmetric": True, "fresh": True}, "symmetric: .*take fresh=False"),
])
def test_what_cannot_be_streamed_is_refused_with_the_way_out(path, changes, said):
    """Before any batch."""
    with pytest.raises(StreamError, match=said):
        open_stream(path, **changes)


def test_a_state_of_another_stream_is_refused(path):
    """Its position would mean other samples."""
    with pytest.raises(StreamError, match="batch_size: the state is of a stream with 4, this one has 5"):
        open_stream(path, batch_size=5).load_state_dict(open_stream(path).state_dict())
    with pytest.raises(StreamError, match="order: the state is of a stream of another split, or"):
        open_stream(path, shuffle=False).load_state_dict(open_stream(path).state_dict())
    with pytest.raises(StreamError, match="order: not in this state"):
        open_stream(path).load_state_dict({k: v for k, v in open_stream(path).state_dict().items() if k != "order"})


def test_memory_is_used_again_only_when_nobody_holds_it():
    """Neither a view nor a slice of it."""
    blocks = Blocks()
    first = blocks.array((3, 4), np.float32)
    first[:] = 7
    kept, block = first[1:, ::2], first.base._block
    del first
    gc.collect()
    second = blocks.array((3, 4), np.float32)
    second[:] = 1
    assert second.base._block is not block
    assert (kept == 7).all()
    del kept
    assert blocks.array((3, 4), np.float32).base._block is block


def test_batches_that_are_kept_keep_their_values(path):
    """However many come after them."""
    kept = [(batch, batch.truth.copy()) for batch in open_stream(path, threads=2)]
    assert all(np.array_equal(batch.truth, copy) for batch, copy in kept)


def edit(file, before, after):
    """Change a file without changing its length."""
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(("file", "before", "after", "fresh"), [
    ("truth/zarr.json", "22", "21", False),
    ("distorted/zarr.json", "float32", "float33", False),
    ("zarr.json", '"samples": 22', '"samples": 21', True),
    ("fields/1/zarr.json", '"sampling": [\n      0.1', '"sampling": [\n      0.2', True),
])
def test_changed_metadata_is_noticed(own, file, before, after, fresh):
    """No chunk's checksum covers what says how chunks are to be read."""
    edit(own / file, before, after)
    with pytest.raises(IntegrityError, match=file):
        open_stream(own, fresh=fresh)
    with pytest.raises(IntegrityError, match=file):
        open_stream(own.as_uri(), fresh=fresh)


@pytest.mark.parametrize("part", ["shard-00002", "field-00001"])
def test_a_part_of_another_build_is_not_streamed(own, tmp_path, part):
    """Its bytes are sound, and not those of this recipe."""
    edit(own / "manifest" / f"{part}.json", store.open_store(own).attributes["recipe_digest"], 64 * "0")
    for place in (own, own.as_uri()):
        with pytest.raises(IntegrityError, match="manifest of another build"):
            open_stream(place, fresh=part.startswith("field"))


def test_a_data_set_that_takes_the_place_of_another_is_not_mixed_with_it(own, path, monkeypatch):
    """A build with --overwrite under a running training."""
    stream = open_stream(own, batch_size=1, shuffle=False, threads=0)
    stream.batch(0, 0)
    own.rename(own.with_name("old"))
    shutil.copytree(path, own)
    with pytest.raises(IntegrityError, match="replaced by another build while it was read"):
        stream.batch(0, 21)


def test_elsewhere_too_a_shard_deleted_while_it_is_streamed_is_missed(own):
    """Also of an array whose fill value could be data."""
    stream = open_stream(own.as_uri(), batch_size=1, shuffle=False, threads=0, also=("class_map",))
    stream.batch(0, 5)
    (own / "class_map/c/1/0/0").unlink()
    with pytest.raises(IntegrityError, match="class_map of sample 5: file is missing: class_map/c/1/0/0"):
        stream.batch(0, 5)


def test_elsewhere_too_a_sample_may_have_no_columns(path):
    """NaN beyond the last column is what was written."""
    stream = open_stream(path.as_uri(), also=("column_position", "column_count"), batch_size=SAMPLES, shuffle=False)
    batch = stream.batch(0, 0)
    assert (batch.column_count == 0).any()
    assert np.isnan(batch.column_position[batch.column_count == 0]).all()


def test_a_state_is_of_one_data_set_and_one_way_to_stream_it(path, tmp_path):
    """Whatever else determines the batches is in it, as plain JSON values."""
    state = open_stream(path, seed=np.int64(3), batch_size=np.int32(4)).state_dict()
    assert json.loads(json.dumps(state)) == state
    for changes, said in (({"fresh": True}, "fresh: the state is of a stream with False"),
                          ({"patch": 8}, "patch: the state is of a stream with None")):
        with pytest.raises(StreamError, match=said):
            open_stream(path, seed=3, **changes).load_state_dict(state)
    with pytest.raises(StreamError, match="data: the state is of a stream with '0000'"):
        open_stream(path, seed=3).load_state_dict(state | {"data": "0000"})


def test_a_position_is_not_changed_inside_of_a_loop(path):
    """The loop would go on elsewhere than the position says."""
    stream = open_stream(path)
    loop = iter(stream)
    next(loop)
    stream.seek(0, 4)
    with pytest.raises(StreamError, match="changed inside of a loop"):
        next(loop)
