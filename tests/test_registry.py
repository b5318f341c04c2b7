"""The registry: what it lists is there or can be fetched, once, whole and checked."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.server
import json
import shutil
import threading
import zipfile
from pathlib import Path

import fakes
import pytest
from typer.testing import CliRunner

from emsynth import registry, store
from emsynth.cli import app
from emsynth.errors import IntegrityError, StoreError
from emsynth.export import export
from emsynth.recipe import Recipe

pooch = pytest.importorskip("pooch", reason="pooch is not installed")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A finished data set, and the zip archive in which it is published."""
    folder = tmp_path_factory.mktemp("published")
    recipe = fakes.recipe(samples=4, fields=1)
    path = store.create(folder / "fake.zarr", recipe, [fakes.outline(recipe, 0)]).path
    store.write_field(path, 0, fakes.simulate(recipe, 0))
    store.write_shard(path, 0, [fakes.render(recipe, i) for i in range(4)])
    export(path, "zip", folder / "fake.zip")
    return path, folder / "fake.zip"


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, and remembers who asked for what; may cut the connection after so many bytes."""

    content: bytes
    cut: int | None = None
    ranges = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.asked = content, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/fake.zip"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.server.cut is None else body[:self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(published):
    with Server(published[1].read_bytes()) as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def listed(published, tmp_path, monkeypatch):
    """A registry of our own, and a cache of our own; gives a function that lists the data set there."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setattr(registry, "folders", lambda: [folder])
    monkeypatch.setenv("EMSYNTH_CACHE", str(tmp_path / "cache"))

    def write(*where, **changes):
        made = registry.entry_of(published[0], "a fake", where or "shipped", "none").model_dump(mode="json") | changes
        (folder / "registry.json").write_text(json.dumps({"data_sets": [made]}))
        return folder

    return write


def left_in(tmp_path):
    return [path for path in (tmp_path / "cache" / "datasets").iterdir() if path.suffix not in (".lock", ".part")]


def test_the_registry_that_comes_with_emsynth_is_sound():
    """Each shipped data set is there, is the one that is listed, and has all of its bytes."""
    for entry in registry.entries():
        if entry.where == "shipped":
            path = registry.fetch(entry.name)
            assert store.verify(path) == []
            assert (entry.pairs, entry.licence) == (store.open_store(path).samples,
                                                    store.open_store(path).attributes["licence"])


@pytest.mark.parametrize("path", sorted((Path(__file__).resolve().parents[1] / "datasets").glob("*.yaml")), ids=str)
def test_the_recipe_of_a_shipped_data_set_is_the_one_that_made_it(path):
    """Whoever reads the recipe beside a shipped data set reads about that data set."""
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    for entry in registry.entries():
        if entry.name == recipe.name:
            assert store.open_store(registry.fetch(entry.name)).attributes["recipe_digest"] == recipe.digest


def test_a_data_set_is_fetched_whole_and_only_once(server, listed, published):
    """The second time nobody is asked."""
    listed(server.url)
    path = registry.fetch("fake")
    assert store.verify(path) == []
    assert store.checksums(path) == store.checksums(published[0])
    assert registry.fetch("fake") == path
    assert server.asked == [None]


def test_several_who_fetch_at_once_share_one_download(server, listed):
    """All get the same folder, and the server is asked once."""
    listed(server.url)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(registry.fetch, ["fake"] * 4))
    assert len(paths) == 1
    assert server.asked == [None]


def test_an_interrupted_download_goes_on_where_it_stopped(server, listed, tmp_path, monkeypatch):
    """What came before the interruption is not asked for again, and nothing looks finished meanwhile."""
    monkeypatch.setattr(registry, "_BLOCK", 1000)
    listed(server.url)
    server.cut = 5000
    with pytest.raises(StoreError, match="cannot be fetched"):
        registry.fetch("fake")
    assert left_in(tmp_path) == []
    server.cut = None
    assert store.verify(registry.fetch("fake")) == []
    assert server.asked == [None, "bytes=5000-"]


def test_a_server_that_cannot_go_on_sends_all_of_it(server, listed, monkeypatch):
    """Without ranges the download begins again."""
    listed(server.url)
    monkeypatch.setattr(registry, "_BLOCK", 1000)
    server.cut = 5000
    with contextlib.suppress(StoreError):
        registry.fetch("fake")
    server.cut, server.ranges = None, False
    assert store.verify(registry.fetch("fake")) == []


def test_another_data_set_than_the_listed_one_is_refused(server, listed, tmp_path):
    """Its bytes are sound, and still it is not kept."""
    listed(server.url, digest="0" * 64)
    with pytest.raises(StoreError, match=r"the registry says 000000000000\.\.\."):
        registry.fetch("fake")
    assert left_in(tmp_path) == []


def test_a_damaged_data_set_is_refused(server, listed, tmp_path, published):
    """One flipped byte in a shard: manifests and digest are right, the bytes are not."""
    folder = shutil.copytree(published[0], tmp_path / "damaged.zarr")
    victim = folder / "truth" / "c" / "0" / "0" / "0"
    content = bytearray(victim.read_bytes())
    content[100] ^= 1
    victim.write_bytes(content)
    packed = shutil.make_archive(str(tmp_path / "damaged"), "zip", folder)
    server.content = Path(packed).read_bytes()
    Path(packed).unlink()
    shutil.rmtree(folder)
    listed(server.url)
    with pytest.raises(StoreError, match="truth: checksum differs"):
        registry.fetch("fake")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("content", [b"not a zip archive", b""])
def test_what_is_no_archive_is_refused(server, listed, tmp_path, content):
    """A login page, or nothing at all."""
    server.content = content
    listed(server.url)
    with pytest.raises(StoreError, match="cannot be fetched"):
        registry.fetch("fake")
    assert left_in(tmp_path) == []


def test_an_archive_may_hold_the_data_set_in_a_folder(server, listed, tmp_path, published):
    """As services pack it that archive a whole repository."""
    with zipfile.ZipFile(published[1]) as packed, zipfile.ZipFile(tmp_path / "deep.zip", "w") as deep:
        for name in packed.namelist():
            deep.writestr(f"archive-1.0/fake.zarr/{name}", packed.read(name))
    server.content = (tmp_path / "deep.zip").read_bytes()
    listed(server.url)
    assert store.verify(registry.fetch("fake")) == []


def test_where_one_address_fails_the_next_is_tried(server, listed):
    """A mirror is there to be used."""
    listed("http://127.0.0.1:9/gone.zip", server.url)
    assert store.verify(registry.fetch("fake")) == []


def test_without_a_network_the_verb_says_so_in_one_line(listed):
    """And exits with 1, without a traceback."""
    listed("http://127.0.0.1:9/gone.zip")
    said = CliRunner().invoke(app, ["datasets", "fake"])
    assert said.exit_code == 1
    assert [line for line in said.stderr.splitlines() if line.startswith("error: fake: cannot be fetched; http://127")]
    assert "Traceback" not in said.stderr


def test_an_unknown_name_gets_the_nearest_ones(listed):
    """Whoever mistypes is told what there is."""
    listed()
    with pytest.raises(StoreError, match="no data set 'fke' in the registry; there is fake"):
        registry.fetch("fke")


def test_a_shipped_data_set_is_used_where_it_lies(listed, published):
    """Without a network, and without a copy in the cache."""
    folder = listed()
    shutil.copytree(published[0], folder / "fake.zarr")
    assert registry.fetch("fake") == folder / "fake.zarr"


def test_a_shipped_data_set_that_was_changed_is_noticed(listed, published):
    """What is listed and what is there must be the same."""
    shutil.copytree(published[0], listed(digest="0" * 64) / "fake.zarr")
    with pytest.raises(IntegrityError, match="its checksum is"):
        registry.fetch("fake")


def test_the_verb_lists_what_there_is(listed, published):
    """Name, pairs, size, licence, and whether it is here."""
    listed("https://example.org/fake.zip")
    said = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["datasets"])
    assert said.exit_code == 0
    for word in ("fake", "4", "kB", "CC-BY-4.0", "https://example.org/fake.zip", "emsynth datasets fake fetches it"):
        assert word in said.stdout


def test_the_verb_writes_the_entry_for_a_finished_data_set(listed, published):
    """It is what the registry reads."""
    said = CliRunner().invoke(app, ["datasets", "--entry", str(published[0]), "--title", "a fake", "--where",
                                    "https://example.org/fake.zip", "--citation", "none"])
    entry = registry.Entry.model_validate_json(said.stdout)
    assert entry.digest == store.checksums(published[0])["total"]
    assert entry.where == ("https://example.org/fake.zip",)


@pytest.mark.parametrize("wrong", [{"digest": "abc"}, {"where": ["ftp://example.org"]}, {"bytes": 0}, {"more": 1}])
def test_a_wrong_entry_is_refused(listed, wrong):
    """The registry is checked whenever it is read."""
    listed(**wrong)
    with pytest.raises(StoreError, match="is not a registry of data sets"):
        registry.entries()
