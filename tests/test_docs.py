"""The code on the pages of the documentation runs, from top to bottom, as a reader would run it."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("page", ["reading", "streaming", "restore"])
def test_the_page_runs(page, tmp_path, monkeypatch):
    """Every block in one namespace, in an empty folder."""
    text = (DOCS / f"{page}.md").read_text()
    found = re.finditer(r"```python\n(.*?)```", text, re.S)
    blocks = [(text[:block.start(1)].count("\n"), block[1]) for block in found]
    if any("import torch" in code for _, code in blocks):
        pytest.importorskip("torch", reason="torch is not installed (extra train)")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names: dict[str, object] = {"__name__": page}
    for line, code in blocks:
        exec(compile("\n" * line + code, str(DOCS / f"{page}.md"), "exec"), names)
    assert len(blocks) > 4


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_lead_somewhere(page):
    """Files that a page refers to are there."""
    for target in re.findall(r"\]\(([^)#:]+)\)", (DOCS / page).read_text()):
        assert (DOCS / target).exists(), target
