"""The leaderboards' small version runs with the other tests."""

from __future__ import annotations

import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter
from toy_suite import toy_suite

from benchmarks.results import leaderboards
from benchmarks.results.leaderboards import HERE, RESTORERS, entered, make, text
from emsynth.benchmark import shipped
from emsynth.benchmark.score import error
from emsynth.builder.job import Silence


def smooth(image):
    """A Gaussian of one pixel."""
    return gaussian_filter(image, 1.0)


def test_the_reference_is_kept_once(tmp_path):
    """The first run keeps the reference's figures; the second, under the same name, is scored against those."""
    suite = toy_suite(families=("poisson",), severities=(3,))
    page = make(suite, tmp_path, {"smooth": smooth}, references=tmp_path / "kept", judge="smooth")
    assert "100.0" in next(line for line in page.read_text().splitlines() if line.startswith("| smooth"))
    for file in tmp_path.glob("*.parquet*"):
        file.unlink()
    again = make(suite, tmp_path, {"smooth": "identity"}, references=tmp_path / "kept").read_text()
    assert "100.0" not in next(line for line in again.splitlines() if line.startswith("| smooth"))


class Counter(Silence):
    """How many images are yet to be restored."""

    def begin(self, what, total):
        self.total = total


def test_a_network_enters_the_suite_it_is_made_for(monkeypatch, tmp_path):
    """Beside the baselines, by its file; suites of other modalities are left alone."""
    monkeypatch.setattr(leaderboards, "networks", lambda: {"stem_hd": tmp_path / "stem_hd.safetensors"})
    assert list(entered("stem_hd_v1")) == [*RESTORERS, "stem_hd"]
    assert entered("stem_hd_v1")["stem_hd"] == str(tmp_path / "stem_hd.safetensors")
    assert list(entered("tem_hd_v1")) == list(RESTORERS)


def test_only_the_new_network_is_run(monkeypatch, tmp_path):
    """What is in the table stays, and the page has a row of both."""
    torch = pytest.importorskip("torch", reason="torch is not installed (extra train)")
    from emsynth.networks.cgrdn import CGRDN, Size
    from emsynth.networks.weights import save_weights

    suite, watch = toy_suite(families=("poisson",), severities=(3,)), Counter()
    make(suite, tmp_path, {"smooth": smooth}, references=tmp_path / "kept", judge="smooth")
    torch.manual_seed(0)
    network = CGRDN(Size(layers=1, growth=4, width=8, groups=1, blocks=1))
    path = save_weights(tmp_path / "toy.safetensors", network, half=True)
    monkeypatch.setattr(leaderboards, "networks", lambda: {"toy": path})
    both = {"smooth": smooth} | entered(suite.name, ())
    page = make(suite, tmp_path, both, watch=watch, references=tmp_path / "kept")
    assert watch.total == len(suite)
    assert [line.split()[1] for line in page.read_text().splitlines() if line.startswith(("| smooth", "| toy"))] == [
        "smooth", "toy"]


@pytest.fixture(scope="module", params=shipped.names())
def result(request):
    """A committed table with its suite."""
    pytest.importorskip("pyarrow", reason="the committed tables are Parquet: pip install 'emsynth[parquet]'")
    return shipped.load(request.param), pd.read_parquet(HERE / f"{request.param}.parquet")


def test_committed_leaderboards_are_those_of_their_tables(result):
    """Page, table, reference and suite belong together, and every image of every restorer was measured."""
    suite, table = result
    assert (HERE / f"{suite.name}.md").read_text(encoding="utf-8") == text(suite, table)
    assert set(table.status) == {"ok"}
    assert set((table.metric == "psnr").groupby(table.restorer).sum()) == {len(suite)}


def test_bm3d_beats_gaussian_where_electrons_are_counted(result):
    """Tuned BM3D has the smaller error on the suite's counting family, and the higher mean PSNR at every severity."""
    suite, table = result
    family = {"stem_hd_v1": "poisson", "tem_hd_v1": "counting", "sem_hd_v1": "compound_poisson"}[suite.name]
    seen = table[(table.metric == "psnr") & (table.family == family)]
    psnr = seen.groupby(["restorer", "severity"]).value.mean().unstack()
    assert (psnr.loc["bm3d"] > psnr.loc["gaussian"]).all()
    mean = seen.assign(value=error(seen.value)).groupby("restorer").value.mean()
    assert mean["bm3d"] < mean["gaussian"]
