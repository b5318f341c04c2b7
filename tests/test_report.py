"""The HTML report: one file that needs nothing else, says what the table says, and can be looked at in a browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_score import figures_of, table_of
from toy_suite import toy_suite

from emsynth.benchmark.reference import Reference, reference_of
from emsynth.benchmark.report import cases_shown, write_report
from emsynth.benchmark.report_figures import curves, span, ticks
from emsynth.benchmark.report_images import grey, worst
from emsynth.benchmark.score import Estimate, Score, scores
from emsynth.benchmark.suite import Suite
from emsynth.errors import SuiteError

NASTY = "</script><script>alert(1)</script>"
RESTORERS = {"gaussian": figures_of(1.0), "good": figures_of(0.5), NASTY: figures_of(1.5),
             "gaussian (oracle)": figures_of(0.4)}


@pytest.fixture(scope="module")
def suite() -> Suite:
    return toy_suite(scenes=8, severities=(1, 3, 5))


@pytest.fixture(scope="module")
def table(suite: Suite) -> pd.DataFrame:
    return table_of(suite, RESTORERS, failed=NASTY)


@pytest.fixture(scope="module")
def against(suite: Suite, table: pd.DataFrame) -> Reference:
    return reference_of(suite, table)


@pytest.fixture(scope="module")
def found(suite: Suite, table: pd.DataFrame, against: Reference) -> list[Score]:
    return scores(suite, table, against)


@pytest.fixture(scope="module")
def page(suite: Suite, table: pd.DataFrame, against: Reference, found: list[Score], tmp_path_factory) -> Path:
    shown = cases_shown(suite, table, against)
    number = {c.name: n for n, c in enumerate(suite.conditions)}
    restored = {(name, condition, scene): 0.5 * suite.case(number[condition], scene).image for name in RESTORERS
                for condition, scene in shown if not (name == NASTY and scene == 0)}
    told = {"versions": {"numpy": "2.0"}, "restorers": [{"name": NASTY}]}
    return write_report(tmp_path_factory.mktemp("report") / "report.html", suite, table, found, restored, told, against)


class _Page(HTMLParser):
    """Tags with their attributes, and the words of each row of each table."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def test_nothing_goes_out(page: Path) -> None:
    """Whatever the page loads or leads to is in the page, and its policy forbids the rest."""
    content = page.read_text("utf-8")
    tags = _Page(content).tags
    links = [value for _, attrs in tags for key, value in attrs.items() if key in ("src", "href", "srcset", "action")]
    assert links
    assert [v for v in links if not str(v).startswith(("data:", "#"))] == []
    assert re.findall(r"https?://|@import|url\((?!#)", content) == []
    assert any(a.get("http-equiv") == "Content-Security-Policy" and "default-src 'none'" in str(a.get("content"))
               for _, a in tags)


def test_it_is_small(page: Path) -> None:
    """Below the 20 MB of a report, by far for a toy."""
    assert page.stat().st_size < 4_000_000


def test_a_name_cannot_become_markup(page: Path) -> None:
    """A restorer that is called like a script is shown as such."""
    content = page.read_text("utf-8")
    assert "<script>alert" not in content
    assert sum(tag == "script" for tag, _ in _Page(content).tags) == 2
    assert any(row and row[0] == NASTY for row in _Page(content).rows)


def test_the_page_says_what_the_table_says(page: Path, table: pd.DataFrame, found: list[Score]) -> None:
    """Score and means in the leaderboard are those of the scores and of the table, without JavaScript."""
    rows = _Page(page.read_text("utf-8")).rows
    head = next(row for row in rows if "PSNR of the mean error [dB]" in row)
    good = next(row for row in rows if row[0] == "good")
    psnr = table[(table["restorer"] == "good") & (table["metric"] == "psnr")]["value"]
    overall = next(s.overall for s in found if s.restorer == "good")
    assert good[head.index("PSNR of the mean error [dB]")] == f"{-20 * np.log10(np.mean(10 ** (-psnr / 20))):.2f}"
    assert good[head.index("precision")] == "0.900"
    assert good[head.index("score")] == f"{overall.value:.1f}({overall.low:.1f}–{overall.high:.1f})"


def test_oracles_stand_apart(page: Path) -> None:
    """Below their heading, not among the competitors."""
    content = page.read_text("utf-8")
    assert content.index("a bound, not a competitor") < content.index(">gaussian (oracle)<")


def test_failures_are_listed_with_their_message(page: Path) -> None:
    """By image, with what the restorer said, escaped."""
    content = page.read_text("utf-8")
    assert "no &lt;memory&gt;" in content
    assert any(row[:3] == [NASTY, "poisson-5, scene 0", "exception"] for row in _Page(content).rows)


def test_an_image_is_scaled_by_the_range_of_its_truth(page: Path, suite: Suite) -> None:
    """Black is the truth's smallest value and white its largest, in the picture of the truth as in all others."""
    content = page.read_text("utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', content, re.DOTALL)[1])
    shown, names = data["cases"], re.findall(r'data-name="([^"]+)"', content)
    for held, name in zip(shown, names, strict=True):
        condition, scene = name.split("/")
        case = suite.case([c.name for c in suite.conditions].index(condition), int(scene))
        for key, image in (("truth", case.truth), ("distorted", case.image), ("restored:good", 0.5 * case.image)):
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(held["images"][key].split(",")[1]))))
            scaled = 255 * np.clip((image - case.truth.min()) / np.ptp(case.truth), 0, 1)
            assert np.abs(pixels - scaled).max() <= 0.51


def test_what_is_no_number_is_black() -> None:
    """NaN and infinities do not spoil the picture."""
    assert grey(np.array([[np.nan, 0.0, 1.0, np.inf]], np.float32), 0, 1).tolist() == [[0, 0, 255, 255]]


def test_cases_shown_are_spread_and_hold_the_worst(suite: Suite, table: pd.DataFrame, against: Reference) -> None:
    """Every family at severities 3 and 5, several contents, and each restorer's worst image."""
    shown = cases_shown(suite, table, against)
    assert {condition for condition, _ in shown} >= {f"{f}-{s}" for f in suite.families for s in (3, 5)}
    assert len({suite.scenes[scene].content for _, scene in shown}) >= 3
    at, = worst(suite, table, "good", against, 1)
    assert (at.condition, at.scene) in shown
    assert shown == cases_shown(suite, table.sample(frac=1, random_state=2), against)


def test_the_worst_case_is_the_worst(suite: Suite, table: pd.DataFrame, against: Reference) -> None:
    """An error ten times that of the reference on one image is found, and a failed image is not a picture to show."""
    changed = table.copy()
    at = ((changed["restorer"] == "good") & (changed["metric"] == "psnr") & (changed["family"] == "row_jitter")
          & (changed["severity"] == 3) & (changed["scene"] == 5))
    changed.loc[at, "value"] = against.figures["psnr"][4, 5] - 20.0
    found, *_ = worst(suite, changed, "good", against)
    assert (found.condition, found.scene, round(found.relative)) == ("row_jitter-3", 5, 1000)
    assert all(w.scene for w in worst(suite, table, NASTY, against, 99))


def test_curves_are_means_and_responses_are_pooled(suite: Suite, table: pd.DataFrame, against: Reference) -> None:
    """A point is the mean over scenes; of a response, the slope of the sums; of the error, its ratio."""
    made = curves(suite, table, ["good"], "column_error", against)["poisson"][0]
    rows = table[(table["restorer"] == "good") & (table["metric"] == "column_error") & (table["family"] == "poisson")]
    assert made.severities == (1, 3, 5)
    assert [p.value for p in made.points] == pytest.approx(rows.groupby("severity")["value"].mean().tolist())
    relative = curves(suite, table, ["good"], "relative_error", against)["poisson"][0]
    assert [p.value for p in relative.points] == pytest.approx([50.0] * 3)
    changed = table.copy()
    changed.loc[(changed["metric"] == "response_shift_recovered") & (changed["scene"] == 1), "value"] = 0.0
    pooled = curves(suite, changed, ["good"], "response_shift", against)["poisson"][0]
    assert [p.value for p in pooled.points] == pytest.approx([0.5] * 3)
    assert [p.high for p in pooled.points] == pytest.approx([0.5 + 12.7062 * 0.5] * 3)  # Student's t of two pairs


def test_a_curve_of_psnr_is_that_of_the_mean_error(suite: Suite, table: pd.DataFrame, against: Reference) -> None:
    """One image that is next to perfect does not lift a point, and the interval holds it the right way round."""
    changed = table.copy()
    changed.loc[(changed["metric"] == "psnr") & (changed["scene"] == 0), "value"] = 100.0
    rows = changed[(changed["restorer"] == "good") & (changed["metric"] == "psnr") & (changed["family"] == "poisson")]
    point = curves(suite, changed, ["good"], "psnr", against)["poisson"][0].points[0]
    errors = 10 ** (-rows[rows["severity"] == 1]["value"] / 20)
    assert point.value == pytest.approx(-20 * np.log10(errors.mean()))
    assert point.low < point.value < point.high


def test_a_failed_image_is_not_in_a_curve_it_would_flatter(suite: Suite, table: pd.DataFrame,
                                                           against: Reference) -> None:
    """The bias of the mean image is 0: of an image that failed it says nothing."""
    changed = table.copy()
    failed = changed["status"] != "ok"
    changed.loc[changed["metric"] == "ssim", "metric"] = "mean_bias"
    changed.loc[(changed["metric"] == "mean_bias"), "value"] = np.where(failed[changed["metric"] == "mean_bias"], 0, 7)
    made = curves(suite, changed, [NASTY], "mean_bias", against)["poisson"][0]
    assert [p.value for p in made.points] == pytest.approx([7.0] * 3)


def test_an_outlier_leaves_the_drawing() -> None:
    """One restorer that is far off does not press the others into a line, and a few that differ are all inside."""
    near = [Estimate(v, v, v) for v in np.linspace(1.0, 2.0, 20)]
    assert span([*near, Estimate(80.0, 80.0, 80.0)], None)[1] < 3
    assert span([*near, Estimate(3.0, 3.0, 3.0)], None)[1] > 3


def test_what_is_off_the_scale_is_said(suite: Suite, table: pd.DataFrame, tmp_path: Path) -> None:
    """A very bad restorer has an arrow and a word instead of a place on the scale, which it does not stretch."""
    bad = pd.concat([table, table_of(suite, {"bad": figures_of(30.0, 0.3)})])
    against = reference_of(suite, table)
    page = write_report(tmp_path / "report.html", suite, bad, scores(suite, bad, against), {}, {}, against)
    content = page.read_text("utf-8")
    assert content.count("off the scale →") == 1
    assert '<path class="arrow"' in content
    assert re.search(r"bad: [23]\d\d\d, off the scale", content)
    assert max(p.value for p in curves(suite, bad, ["bad"], "relative_error", against)["poisson"][0].points) > 2500
    assert span([Estimate(v, v, v) for v in (50.0, 100.0, 120.0, 300.0, 400.0, 900.0)], 100.0, 250.0)[1] < 270


def test_what_ignores_the_data_is_marked_in_its_row(suite: Suite, table: pd.DataFrame, against: Reference,
                                                    tmp_path: Path) -> None:
    """The mark leads to the words below the table."""
    more = pd.concat([table, table_of(suite, {"prior": figures_of(0.2, 0.1)})])
    page = write_report(tmp_path / "report.html", suite, more, scores(suite, more, against), {}, {}, against)
    content = page.read_text("utf-8")
    assert re.search(r'>prior <a class="mark" href="#flags"[^>]*>†</a></th>', content)
    assert re.search(r'id="flags">.*<li>† <strong>prior</strong> ignores the data', content)
    assert content.count('class="mark"') == 1


def test_the_reference_is_not_compared_with_itself(suite: Suite, table: pd.DataFrame, against: Reference,
                                                   page: Path) -> None:
    """Its worst images are those of lowest PSNR, and its relative error is a dash."""
    found = worst(suite, table, "gaussian", against)
    assert [w.psnr for w in found] == sorted(against.figures["psnr"].ravel())[:3]
    rows = _Page(page.read_text("utf-8")).rows
    head = next(n for n, row in enumerate(rows) if "relative error [%]" in row)
    assert [row[3] for row in rows[head:] if row[0] == "gaussian" and len(row) == 5] == ["-"] * 3


def test_ticks_are_round_and_inside() -> None:
    """Of any range, a few numbers that a reader can say."""
    assert ticks(-3.0, 127.0) == [0, 25, 50, 75, 100, 125]
    assert ticks(0.91, 0.99) == pytest.approx([0.92, 0.94, 0.96, 0.98])


def test_a_report_never_gets_too_large(suite: Suite, table: pd.DataFrame, found: list[Score], against: Reference,
                                       tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images beyond the limit are left out, and the page says how many."""
    monkeypatch.setattr("emsynth.benchmark.report._MOST_BYTES", 20_000)
    restored = {("good", "poisson-1", scene): suite.case(0, scene).image for scene in range(8)}
    page = write_report(tmp_path / "report.html", suite, table, found, restored, {}, against).read_text("utf-8")
    kept = page.count('<figure class="case"')
    assert 0 < kept < 8
    assert f"{8 - kept} further images are left out" in page


def test_a_suite_without_columns_has_no_words_about_them(suite: Suite, tmp_path: Path) -> None:
    """Of a SEM suite neither leaderboard nor report has empty columns, and nothing fails for want of them."""
    bare = replace(suite, scenes=tuple(replace(s, content="surface", columns=np.zeros((0, 2)), probes=(), partner=None)
                                       for s in suite.scenes))
    table = table_of(bare, {"gaussian": figures_of(1.0)})
    against = reference_of(bare, table)
    found = scores(bare, table, against)
    page = write_report(tmp_path / "report.html", bare, table, found, {}, {}, against).read_text("utf-8")
    head = next(row for row in _Page(page).rows if "PSNR of the mean error [dB]" in row)
    assert head[2:] == ["score", "against reference", "PSNR of the mean error [dB]", "SSIM", "time [s/Mpx]", "failed"]
    assert found[0].overall.value == 100


def test_a_place_that_cannot_be_written_is_a_clear_message(suite: Suite, table: pd.DataFrame, found: list[Score],
                                                           against: Reference, tmp_path: Path) -> None:
    """No traceback for a folder that is not there."""
    with pytest.raises(SuiteError, match="cannot be written"):
        write_report(tmp_path / "none" / "report.html", suite, table, found, {}, {}, against)


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium on this machine; install the package chromium")
    return found


def _opened(page: Path, address: str, tmp_path: Path) -> tuple[str, str]:
    """The page as the browser has it after its script, and what the browser said."""
    ran = subprocess.run(
        [_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}", "--enable-logging=stderr",
         "--virtual-time-budget=3000", "--dump-dom", f"{page.as_uri()}{address}"],
        capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "LANG": "C.UTF-8"})
    return ran.stdout, ran.stderr


def test_a_browser_opens_it_without_a_complaint(page: Path, tmp_path: Path) -> None:
    """No error and no refused request on the console, and the script has run to its end."""
    dom, said = _opened(page, "", tmp_path)
    assert "CONSOLE" not in said
    html_tag = next(attrs for tag, attrs in _Page(dom).tags if tag == "html")
    assert html_tag.get("class") == "js"
    assert dom.count('<figure class="case"') == page.read_text("utf-8").count('<figure class="case"') > 4


def test_an_address_opens_one_view(page: Path, tmp_path: Path) -> None:
    """Restorer, residual and the place of the slider follow the address, as a link of the worst cases does."""
    name = re.search(r'data-name="(poisson-5/\d+)"', page.read_text("utf-8"))[1]
    dom, said = _opened(page, f"#case={name}&restorer=good&right=residual&split=30", tmp_path)
    assert "CONSOLE" not in said
    card = re.search(rf'<figure class="case sought"[^>]*data-name="{name}".*?</figure>', dom, re.DOTALL)[0]
    assert "--split: 30%" in card
    assert "good: residual ×4" in card
    assert re.search(r'<img class="right"[^>]* hidden', card)
    assert re.search(r"good: PSNR \d", card)
