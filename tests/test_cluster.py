"""Many at one store: a Dask cluster, claims as leases, two writers of one part, builds that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import fakes
import pytest
from typer.testing import CliRunner

from benchmarks.stress import kill
from emsynth import builder, store
from emsynth.builder import cluster
from emsynth.builder.tasks import Engine, FieldTask
from emsynth.builder.workers import Held
from emsynth.cli import app
from emsynth.errors import EmsynthError, StoreError
from emsynth.store import claims, manifest

FAKE = Engine(fakes.outline, fakes.simulate, fakes.render)
PART = "shard-00001"


@pytest.fixture(scope="module")
def recipe():
    return fakes.recipe()


@pytest.fixture
def empty(tmp_path, recipe):
    return store.create(tmp_path / "e.zarr", recipe, [fakes.outline(recipe, j) for j in range(3)]).path


@pytest.fixture(scope="module")
def dask_cluster():
    """Three worker processes, started again when they are killed; a task may kill its worker twice."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=3, threads_per_worker=2, dashboard_address=None, silence_logs=50) as running:
        running.scheduler.allowed_failures = 1
        yield running


@dataclass
class Killer:
    """Kills one worker process that is at a shard, once another shard is finished."""

    path: Path
    killed: claims.Owner | None = None

    def begin(self, phase, total):
        pass

    def note(self, message):
        pass

    def step(self, amount, what):
        at_work = [who for part, who in claims.live(self.path).items() if part.startswith("shard")]
        if self.killed is None and what.startswith("shard") and at_work:
            self.killed = at_work[0]
            os.kill(self.killed.pid, signal.SIGKILL)


def test_three_workers_of_which_one_is_killed_make_the_same_bytes_as_one_process(dask_cluster, tmp_path):
    many = fakes.recipe(samples=20)
    alone = builder.build(many, tmp_path / "alone.zarr", workers=1, engine=FAKE)
    killer = Killer(tmp_path / "c.zarr")
    slow = Engine(fakes.outline, fakes.simulate, fakes.slow_render)
    builder.build(many, killer.path, engine=slow, scheduler=dask_cluster.scheduler_address, progress=killer)
    assert killer.killed is not None
    assert store.verify(killer.path) == []
    assert store.checksums(killer.path) == store.checksums(alone)
    assert claims.live(killer.path) == {}


def test_a_task_that_kills_every_worker_is_named(dask_cluster, recipe, tmp_path):
    deadly = Engine(fakes.outline, fakes.simulate, fakes.deadly_render)
    with pytest.raises(EmsynthError, match=r"shard 1: killed its worker 2 times.*memory.*--resume"):
        builder.build(recipe, tmp_path / "d.zarr", engine=deadly, scheduler=dask_cluster.scheduler_address)


def test_no_scheduler_is_said_at_once(recipe, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]  # and nobody listens
    for address in (f"tcp://127.0.0.1:{port}", "nonsense"):
        with pytest.raises(EmsynthError, match=f"--scheduler {address}: no Dask scheduler can be reached there"):
            builder.build(recipe, tmp_path / "x.zarr", scheduler=address, engine=FAKE)
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_and_workers_do_not_go_together(recipe, tmp_path):
    done = CliRunner().invoke(app, ["build", "quickstart", "--scheduler", "tcp://127.0.0.1:1", "--workers", "2"])
    assert done.exit_code == 2
    with pytest.raises(EmsynthError, match="give one of them"):
        builder.build(recipe, tmp_path / "x.zarr", workers=2, scheduler="tcp://127.0.0.1:1", engine=FAKE)


def test_a_worker_that_does_not_see_the_output_is_named(tmp_path, monkeypatch):
    """As one whose folder of the same name is its own."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    asked = cluster.Cluster("tcp://x:1", tmp_path / "here" / "x.zarr", print)
    asked._client = Client(lambda folder, token: cluster.introduce(folder.replace("here", "there"), token))
    with pytest.raises(EmsynthError, match=r"worker tcp://w:1 on \S+ does not see .*/here as this machine does"):
        asked._inspect()
    asked._client = Client(cluster.introduce)
    asked._inspect()
    assert list((tmp_path / "here").iterdir()) == []


def test_workers_of_other_versions_are_noted(tmp_path):
    told = []
    asked = cluster.Cluster("tcp://x:1", tmp_path, told.append)
    asked._compare([{**cluster._determines(), "numpy": "1.0"}, cluster._determines()])
    assert len(told) == 1
    assert told[0].startswith("1 of 2 workers: numpy 1.0, ")


@dataclass
class Client:
    """Of a cluster with one worker, which is here."""

    answer: object

    def run(self, function, *given, on_error):
        return {"tcp://w:1": self.answer(*given)}


class Overlap:
    """A task that counts how many of its kind run at the same time."""

    name, now, most, threads = "overlap 1", 0, 0, ""

    def run(self):
        Overlap.now += 1
        time.sleep(0.05)
        Overlap.most = max(Overlap.most, Overlap.now)
        Overlap.now -= 1
        return os.environ["OMP_NUM_THREADS"]


def test_a_worker_with_threads_runs_one_task_at_a_time(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    threads = [threading.Thread(target=cluster.run_alone, args=(Overlap(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Overlap.most == 1
    assert cluster.run_alone(Overlap()) == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7"


def from_elsewhere(path, part, age):
    """A claim by a process on another machine, which touched it `age` seconds ago by the clock of the file system."""
    file = claims.file_of(path, part)
    file.write_text(json.dumps({**vars(claims.myself()), "host": "elsewhere"}))
    now = file.stat().st_mtime
    os.utime(file, (now - age, now - age))


def test_a_claim_from_elsewhere_holds_for_a_lease(empty):
    from_elsewhere(empty, PART, claims.LEASE - 30)
    assert not claims.claim(empty, PART)
    from_elsewhere(empty, PART, claims.LEASE + 1)
    assert claims.live(empty) == {}
    assert claims.claim(empty, PART)
    assert claims.owner(empty, PART) == claims.myself()


def test_the_lease_runs_by_the_clock_of_the_file_system(empty, monkeypatch):
    from_elsewhere(empty, PART, 10)
    monkeypatch.setattr(time, "time", lambda: 1e11)
    assert not claims.claim(empty, PART)


def test_a_machine_of_the_same_name_is_another_one(empty):
    """Whose process numbers say nothing here."""
    claims.file_of(empty, PART).write_text(json.dumps({**vars(claims.myself()), "boot": "another", "started": "1"}))
    assert not claims.claim(empty, PART)


def test_an_owner_touches_its_own_claims_only(empty):
    for part in (PART, "shard-00000"):
        assert claims.claim(empty, part)
        os.utime(claims.file_of(empty, part), (1, 1))
    from_elsewhere(empty, "shard-00000", 100)  # taken over while this process slept
    before = claims.file_of(empty, "shard-00000").stat().st_mtime
    claims._renewal.renew()
    assert claims.file_of(empty, PART).stat().st_mtime > 1
    assert claims.file_of(empty, "shard-00000").stat().st_mtime == before
    claims.release(empty, PART)
    claims.release(empty, "shard-00000")
    assert list(claims.live(empty)) == ["shard-00000"]


def test_who_comes_second_to_a_stale_claim_puts_the_new_one_back(empty, monkeypatch):
    from_elsewhere(empty, PART, claims.LEASE + 1)
    stale = claims.file_of(empty, PART).read_bytes()
    from_elsewhere(empty, PART, 0)  # the first has taken over; the second has read what was there before
    new = claims.file_of(empty, PART).read_bytes().replace(b"elsewhere", b"first")
    claims.file_of(empty, PART).write_bytes(new)
    monkeypatch.setattr(claims, "_judged", lambda path, folder: stale)
    assert not claims.claim(empty, PART)
    assert claims.file_of(empty, PART).read_bytes() == new
    assert sorted(os.listdir(empty / "claims")) == [PART, "zarr.json"]


def test_a_process_that_lost_its_part_in_its_sleep_puts_it_off(empty, recipe, monkeypatch):
    def taken_over(path, number, field):
        from_elsewhere(path, "field-00000", 0)
        raise StoreError("its draft was swept away")

    monkeypatch.setattr(store, "write_field", taken_over)
    assert isinstance(FieldTask(empty, recipe, 0, 1.0, FAKE).run(), Held)


def test_two_writers_of_one_part_make_what_one_makes(empty, recipe, tmp_path, monkeypatch):
    """The second begins when the first has put its files into place, and ends before the first."""
    def write(path):
        store.write_field(path, 1, fakes.simulate(recipe, 1))
        store.write_shard(path, 1, [fakes.render(recipe, i) for i in store.open_store(path).samples_of(1)])

    alone = store.create(tmp_path / "alone.zarr", recipe, [fakes.outline(recipe, 2)]).path
    write(alone)
    finish, inside = manifest.write, []

    def interrupted(path, *rest):
        if not inside:
            inside.append(True)
            write(path)
        finish(path, *rest)

    monkeypatch.setattr(manifest, "write", interrupted)
    write(empty)
    assert store.checksums(empty) == store.checksums(alone)
    assert not [problem for problem in store.verify(empty) if "missing" not in problem]
    assert sorted(os.listdir(empty / "claims")) == ["zarr.json"]


def test_what_a_killed_writer_leaves_is_no_part_of_the_store_and_is_swept(empty):
    left = empty / "claims" / f".{PART}.0123"
    (left / "truth" / "c").mkdir(parents=True)
    for name in ("c/1", "zarr.json"):
        (left / "truth" / name).write_bytes(b"half")
    claims.owner_of_draft(left).write_text(json.dumps({**vars(claims.myself()), "started": "1"}))
    assert not [name for name in manifest.files_below(empty) if PART in name]
    claims.sweep(empty)
    assert not left.exists()


def test_killed_twice_and_resumed_makes_the_same_bytes(recipe, tmp_path, monkeypatch):
    """All processes of the build at once; the small one of benchmarks/stress/kill.py."""
    out = tmp_path / "killed" / "x.zarr"
    script = textwrap.dedent(f"""
        import fakes
        from rich.console import Console
        from emsynth import builder
        from emsynth.builder.tasks import Engine
        from emsynth.cli.progress import Watch
        builder.build(fakes.recipe(), {str(out)!r}, workers=1, resume=True, progress=Watch(Console(stderr=True)),
                      engine=Engine(fakes.outline, fakes.simulate, fakes.slow_render))
        """)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    build, draw = kill.Build(out, (sys.executable, "-c", script)), random.Random(5)
    kill.strike(build, draw, length=2.0)  # it sleeps for longer than that
    build.kill(draw.uniform(0, 2.0))
    builder.build(recipe, out, workers=1, resume=True, engine=FAKE)
    assert store.checksums(out) == store.checksums(builder.build(recipe, tmp_path / "w.zarr", workers=1, engine=FAKE))
    assert kill.litter(out) == []
