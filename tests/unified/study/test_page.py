"""The page as a participant uses it, in a real browser where there is one."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from unified.study.make import PAGE, make_study
from unified.study.material import Material
from unified.study.tally import tally

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_pairs_are_chosen_kept_and_saved(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    pictures = {
        (run, 0, seed): torch.full((3, 8, 8), level) for run, level in (("a", 0.2), ("b", 0.8)) for seed in (0, 1)
    }
    text = "a <i>person</i> & more"
    make_study(Material(("a", "b"), (text,), (0, 1), pictures, "person", torch.rand(1, 3, 8, 8)), tmp_path)
    address = (tmp_path / PAGE).as_uri()
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(accept_downloads=True)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda r: problems.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
        )
        page.goto(address)
        assert page.text_content("#total") == "4"
        page.click("#start")
        choose(page)
        if page.is_visible("#ask-prompt"):
            assert page.text_content("#text") == text  # shown, not interpreted
        choose(page, key=True)
        page.reload()  # closed and opened again: it goes on
        page.click("#start")
        assert page.text_content("#progress") == "3 of 4"
        page.click("#back")
        assert page.text_content("#progress") == "2 of 4"
        assert page.locator(".pair .chosen").count() == 1
        choose(page)
        choose(page)
        choose(page)
        page.wait_for_selector("#save")
        with page.expect_download() as saved:
            page.click("#save")
        saved.value.save_as(tmp_path / "results.json")
        assert json.loads(page.input_value("#copy")) == json.loads((tmp_path / "results.json").read_text())
        browser.close()
    assert problems == []
    found = tally(tmp_path, [tmp_path / "results.json"])
    assert found.answers == 4
    assert [(pair.run, pair.other, pair.wins, pair.count) for pair in found.pairs] == [("a", "b", 0, 2)] * 2


def choose(page: object, *, key: bool = False) -> None:
    """The brighter picture, as a person sees it."""
    page.wait_for_timeout(400)  # type: ignore[attr-defined]
    levels = page.evaluate(  # type: ignore[attr-defined]
        """() => ["left", "right"].map((side) => {
            const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
            context.drawImage(document.getElementById(side).firstElementChild, 0, 0);
            return context.getImageData(2, 2, 1, 1).data[0];
        })"""
    )
    side = "left" if levels[0] > levels[1] else "right"
    if key:
        page.keyboard.press(f"Arrow{side.title()}")  # type: ignore[attr-defined]
    else:
        page.click(f"#{side}")  # type: ignore[attr-defined]
