"""The adaptors to torch: the stream's own batches, with workers however they are started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_streaming import SAMPLES, make

import emsynth
from emsynth.errors import StreamError

torch = pytest.importorskip("torch", reason="torch is not installed (extra train)")

from torch.utils.data import DataLoader  # noqa: E402

from emsynth.streaming import BatchDataset, PairDataset  # noqa: E402

SETTINGS = {"batch_size": 4, "split": None}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("torch") / "fake.zarr", "none")


def test_tensors_are_the_arrays_with_a_channel(path):
    """Without a copy of other values."""
    arrays, tensors = (emsynth.stream(path, tensors=t, views=2, also=("mask",), **SETTINGS).batch(1, 2)
                       for t in (False, True))
    assert tensors.truth.shape == (4, 1, 16, 16)
    assert tensors.distorted.shape == (4, 2, 16, 16)
    assert (tensors.distorted.numpy() == arrays.distorted).all()
    assert (tensors.truth[:, 0].numpy() == arrays.truth).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where memory can be pinned")
def test_pinned_memory_without_a_gpu_is_refused(path):
    """Before torch fails in the middle of it."""
    with pytest.raises(StreamError, match="pin: pinned memory needs a GPU"):
        emsynth.stream(path, tensors=True, pin=True, **SETTINGS)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_batch_dataset_gives_the_streams_batches(path, fresh):
    """In its order, in each epoch."""
    data = BatchDataset(path, fresh=fresh, **SETTINGS)
    stream = emsynth.stream(path, fresh=fresh, **SETTINGS)
    for epoch in range(2):
        data.set_epoch(epoch)
        for batch, own in zip(DataLoader(data, batch_size=None), stream, strict=True):
            assert (batch["index"].numpy() == own.index).all()
            assert (batch["truth"][:, 0].numpy() == own.truth).all()
            assert (batch["distorted"][:, 0].numpy() == own.distorted).all()


def test_a_pair_dataset_has_every_pair_of_the_split_once(path):
    """And other distortions in another epoch."""
    data = PairDataset(path, split=None)
    seen = {}
    for epoch in range(2):
        data.set_epoch(epoch)
        loaded = list(DataLoader(data, batch_size=5, shuffle=True))
        assert sorted(int(i) for batch in loaded for i in batch["index"]) == list(range(SAMPLES))
        seen[epoch] = data[3]["distorted"]
    assert seen[0].shape == (1, 16, 16)
    assert not torch.equal(seen[0], seen[1])
    with pytest.raises(IndexError, match="22 is outside 0 to 21"):
        data[SAMPLES]


SCRIPT = """
import sys, torch, emsynth
from torch.utils.data import DataLoader
from emsynth.streaming import BatchDataset, PairDataset

def main(path, method):
    stream = emsynth.stream(path, batch_size=4, split=None, threads=2)
    own = [batch.distorted.copy() for batch in stream]      # threads, kernels and files of the parent are in use
    emsynth.open_dataset(path).truth[0].values              # zarr's event loop too
    for fresh in (True, False) if method == "fork" else (True,):  # the others take seconds to import everything
        data = BatchDataset(path, batch_size=4, split=None, fresh=fresh)
        loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=method)
        seen = [batch["distorted"][:, 0].numpy().copy() for batch in loader]
        assert len(seen) == len(own) and (not fresh or all((a == b).all() for a, b in zip(seen, own)))
    pairs = DataLoader(PairDataset(path, split=None), batch_size=4, num_workers=2, multiprocessing_context=method,
                       persistent_workers=True)
    epochs = []
    for epoch in range(2):
        pairs.dataset.set_epoch(epoch)
        epochs.append(torch.cat([batch["distorted"] for batch in pairs]))
    assert len(epochs[0]) == 22 and not torch.equal(*epochs)
    print("done")

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_do_not_hang(path, tmp_path, method):
    """Two of them, after the parent has used threads, Numba and zarr; a hang ends after two minutes."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    folders = os.pathsep.join([str(Path(emsynth.__file__).parents[1]), *sys.path])
    done = subprocess.run([sys.executable, script, path, method], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": folders}, check=False)
    assert done.stdout.split() == ["done"], done.stderr[-2000:]
