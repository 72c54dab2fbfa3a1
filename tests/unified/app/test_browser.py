"""The pages in a real browser, as a person uses them. Screenshots go to UNIFIED_SCREENSHOTS if it is set.

Skipped where there is no playwright, or no Chromium (UNIFIED_CHROMIUM, or one that the system knows).
"""

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unified.app.pages import CHROMIUM, FLAGS, choose, done
from unified.images import save_image

pytest.importorskip("gradio", reason="the app needs gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium was found; set UNIFIED_CHROMIUM to its path"),
]
ROOT = Path(__file__).parents[3]
EVIL = [
    "a portrait of <me> <img src=x onerror='window.hacked=1'>",
    "<me> ${window.hacked=2} {{value}} <script>window.hacked=3</script>",
]
LONG = 120_000  # milliseconds: the machine may be busy


class Server:
    """The app with tiny models in a process of its own, on one port throughout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "UNIFIED_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.unified.app.tiny_server", str(self.folder), str(self.port), "slow"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), "the server did not start"
        self.port = int(self.address.rpartition(":")[2])

    def stop(self, how: int) -> None:
        self.process.send_signal(how)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("app"))
    yield running
    running.stop(signal.SIGINT)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        yield engine.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)


@pytest.fixture
def people(browser: Any) -> Iterator[Callable[[], Any]]:
    """Each call is another person: a browser without history. Checks what must hold on every page."""
    contexts: list[Any] = []
    outside: list[str] = []
    errors: list[str] = []

    def arrive() -> Any:
        context = browser.new_context(viewport={"width": 1360, "height": 1000}, accept_downloads=True)
        context.set_default_timeout(LONG)
        context.on("request", lambda r: _is_inside(r.url) or outside.append(r.url))
        context.on("page", lambda page: page.on("pageerror", lambda error: errors.append(str(error))))
        contexts.append(context)
        return context

    yield arrive
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.hacked") is None, "markup in a prompt was executed"
        context.close()
    assert not outside, f"the page asked for something outside: {outside[:3]}"
    assert not errors, errors[:3]


def _is_inside(url: str) -> bool:
    return re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:", url) is not None


@pytest.fixture
def shot(tmp_path: Path) -> Callable[[Any, str], None]:
    folder = Path(os.environ.get("UNIFIED_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=str(folder / f"{name}.png"), full_page=True)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Two pictures, and between them a PDF that says it is one."""
    generator = torch.Generator().manual_seed(1)
    names = ["one.png", "not really.png", "two.jpg"]
    for name in names:
        save_image(torch.rand(3, 40, 50, generator=generator), tmp_path / name)
    (tmp_path / names[1]).write_bytes(b"%PDF-1.7\n" + bytes(500))
    return [str(tmp_path / name) for name in names]


def start_comparison(page: Any, *, prompts: list[str], steps: int = 2) -> None:
    choose(page, "compare-person", "person-01")
    page.locator("#runs .token-remove").first.click()  # the slower one of the two
    page.locator("#prompts textarea").fill("\n".join(prompts))
    page.locator("#steps input, #steps textarea").fill(str(steps))
    page.locator("#compare-go").click()


def test_compare_from_files_to_report(
    server: Server, people: Callable[[], Any], shot: Any, pictures: list[str], record_property: Any
) -> None:
    page = people().new_page()
    page.goto(server.address)
    page.locator("#compare-grid .app-empty").wait_for()
    shot(page, "compare-1-empty")
    page.locator("#compare-files input[type=file]").set_input_files(pictures)
    problem = page.locator("#compare-pictures .problem")
    problem.wait_for()
    assert "not really.png" in problem.inner_text() and "not a picture" in problem.inner_text()
    assert page.locator("#compare-pictures img").count() == 2
    page.locator("#runs .token-remove").first.click()  # the slower one of the two
    page.locator("#prompts textarea").fill("\n".join(EVIL))
    page.locator("#steps input, #steps textarea").fill("2")
    page.locator("#compare-go").click()
    page.locator("#compare-message .problem").wait_for()
    assert "not really.png cannot be used" in page.locator("#compare-message").inner_text()
    shot(page, "compare-2-refused")
    page.locator("#leave-out input").check()
    clicked = time.monotonic()
    page.locator("#compare-go").click()
    page.locator("#compare-status .app-status").wait_for()
    record_property("seconds from click to first sign", round(time.monotonic() - clicked, 2))
    page.locator("#compare-status .line").wait_for()
    record_property("seconds from click to first progress", round(time.monotonic() - clicked, 2))
    page.locator("#compare-grid .cell img").first.wait_for()
    shot(page, "compare-3-running")
    page.reload()  # the page finds its job again by its address
    page.locator("#compare-status .app-status").wait_for()
    done(page, "compare-status")
    page.wait_for_function("document.querySelectorAll('#compare-grid .cell img').length == 2")
    assert page.locator("#compare-grid .prompt").all_inner_texts() == EVIL  # shown as they were written
    page.locator("#compare-grid .cell").first.hover()
    page.wait_for_timeout(400)
    shot(page, "compare-4-done")
    assert "Identity" in page.locator("#compare-grid .scores").first.inner_text()

    link = page.locator("#compare-downloads a").last
    with page.expect_download() as event:
        link.click()
    with zipfile.ZipFile(event.value.path()) as archive:
        names = archive.namelist()
    assert "report/report.html" in names and any(name.endswith(".safetensors") for name in names)
    with page.context.expect_page() as opened:
        page.locator("#compare-downloads a").first.click()
    report = opened.value
    report.locator("h1").wait_for()
    shot(report, "compare-5-report")
    stranger = people()
    assert stranger.request.get(f"{server.address}{link.get_attribute('href')}").status == 404


def test_two_tabs_and_two_people_with_one_name(server: Server, people: Callable[[], Any], shot: Any) -> None:
    me, you = people(), people()
    tabs = [me.new_page(), me.new_page(), you.new_page()]
    prompts = [f"<me> number {i}" for i in range(3)]
    for page in tabs:
        page.goto(server.address)
        page.locator("#compare-go").wait_for()
    for page, prompt in zip(tabs, prompts, strict=True):
        start_comparison(page, prompts=[prompt])
        page.locator("#compare-status .app-status").wait_for()
        if page is tabs[1]:  # at once, before its turn comes
            page.locator("#compare-stop").click()
            page.locator("#compare-status .app-status.cancelled").wait_for()
    shot(tabs[2], "queue-1-waiting")
    for page, prompt in ((tabs[0], prompts[0]), (tabs[2], prompts[2])):
        done(page, "compare-status")
        assert page.locator("#compare-grid .prompt").all_inner_texts() == [prompt]
    address = tabs[0].url
    assert "job=" in address
    tabs[2].goto(address)  # someone else's job is not shown
    tabs[2].locator("#compare-grid .app-empty").wait_for()
    assert tabs[2].locator("#compare-status .app-status").count() == 0


def test_edit_by_sliders_words_and_points(
    server: Server, people: Callable[[], Any], shot: Any, record_property: Any
) -> None:
    page = people().new_page()
    page.goto(f"{server.address}/edit")
    page.locator("#edit-go").wait_for()
    page.locator("#edit-go").click()
    page.locator("#edit-message .problem").wait_for()  # no picture yet
    shot(page, "edit-1-empty")
    choose(page, "edit-person", "person-02")
    page.locator("#edit-steps input, #edit-steps textarea").fill("3")
    page.locator("#edit-go").click()
    done(page, "edit-status")
    after = page.locator("#edit-view img.after")
    after.wait_for()
    page.locator("#edit-told .hint").wait_for()  # nothing is known of random weights
    page.get_by_role("button", name="Find directions of this model").click()
    choose(page, "finder", "sefa")
    page.locator("#find-go").click()
    slider = page.locator("#slider-0 input[type=range]")
    slider.wait_for()
    before = after.get_attribute("src")
    clicked = time.monotonic()
    slider.fill("3")
    page.wait_for_function("old => document.querySelector('#edit-view img.after').src != old", arg=before)
    record_property("seconds of a slider's redraw in the browser", round(time.monotonic() - clicked, 3))
    assert "+3" in page.locator("#edit-view figcaption").last.inner_text()
    shot(page, "edit-2-sliders")
    page.locator("#zero").click()
    page.wait_for_function("old => document.querySelector('#edit-view img.after').src == old", arg=before)

    page.get_by_role("tab", name="Words").click()
    page.locator("#words textarea, #words input").fill("<me> with <b>sunglasses</b>")
    page.locator("#words-go").click()
    done(page, "side-status")
    page.wait_for_function("old => document.querySelector('#edit-view img.after').src != old", arg=before)
    assert "<b>sunglasses</b>" in page.locator("#edit-view figcaption").last.inner_text()
    shot(page, "edit-3-words")

    page.get_by_role("tab", name="Points").click()
    image = page.locator("#points img")
    image.wait_for()
    for place in ((100, 120), (150, 120)):
        page.wait_for_function("document.querySelector('#points img').naturalWidth > 0")  # a click before is no place
        old = image.get_attribute("src")
        image.click(position={"x": place[0], "y": place[1]})
        page.wait_for_function("old => document.querySelector('#points img').src != old", arg=old)
    page.locator("#drag-go").click()
    page.locator("#side-status .app-status.done", has_text="1 point dragged").wait_for()
    shot(page, "edit-4-points")
    page.reload()
    page.locator("#edit-view img.after").wait_for()
    assert page.locator("#edit-view img.after").get_attribute("src") == before


def test_explore(server: Server, people: Callable[[], Any], shot: Any) -> None:
    page = people().new_page()
    page.goto(f"{server.address}/explore")
    row = page.locator("#explore-row figure")
    page.locator("#walk-go").wait_for()
    shot(page, "explore-1-empty")
    for tab, button, count in (
        ("Random walk", "walk-go", 8),
        ("Between two seeds", "seeds-go", 7),
        ("Mix styles", "mix-go", 7),
        ("Attention", "map-go", 2),
    ):
        page.get_by_role("tab", name=tab).click()
        page.locator(f"#{button}").click()
        page.wait_for_function(
            "([count, tab]) => { const all = document.querySelectorAll('#explore-row figcaption');"
            " return all.length >= count && (tab != 'Attention' || all[0].innerText == 'picture') }",
            arg=[count, tab],
        )
        shot(page, f"explore-2-{button.removesuffix('-go')}")
        assert row.count() >= count
    page.get_by_role("tab", name="Between two concepts").click()
    page.locator("#concepts-go").click()
    page.locator("#explore-message .problem").wait_for()
    assert "Choose two concepts" in page.locator("#explore-message").inner_text()


def test_the_catalog_is_searched_as_one_types(server: Server, people: Callable[[], Any], shot: Any) -> None:
    page = people().new_page()
    page.goto(f"{server.address}/catalog")
    results = page.locator("#catalog-results article")
    results.first.wait_for()
    everything = results.count()
    shot(page, "catalog-1-all")
    page.locator("#catalog-words textarea, #catalog-words input").fill("Pivotal Tuning")
    page.wait_for_function("document.querySelectorAll('#catalog-results article').length == 1")
    assert "--recipe pti" in results.inner_text()
    shot(page, "catalog-2-words")
    page.locator("#catalog-words textarea, #catalog-words input").fill("")
    choose(page, "catalog-family", "gan")
    choose(page, "catalog-status", "not yet")
    page.wait_for_function("!document.querySelector('#catalog-results article:not(.not_yet)')")
    assert 0 < results.count() < everything
    page.locator("#catalog-words textarea, #catalog-words input").fill(EVIL[0])
    page.locator("#catalog-results", has_text="Nothing of the survey matches").wait_for()
    shot(page, "catalog-3-nothing")


def test_a_large_upload_is_refused_and_the_page_lives_on(
    server: Server, people: Callable[[], Any], shot: Any, tmp_path: Path
) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(200 * 2**20)
    page = people().new_page()
    page.goto(server.address)
    page.locator("#compare-files input[type=file]").set_input_files(str(tmp_path / "huge.png"))
    page.locator(".toast-body").first.wait_for()
    shot(page, "compare-6-too-large")
    assert page.locator("#compare-pictures img").count() == 0
    choose(page, "compare-person", "person-01")
    page.locator("#compare-pictures img").first.wait_for()


def test_a_killed_server_goes_on_with_the_job(server: Server, people: Callable[[], Any], shot: Any) -> None:
    page = people().new_page()
    page.goto(server.address)
    page.locator("#compare-go").wait_for()
    start_comparison(page, prompts=["<me> one", "<me> two", "<me> three"])
    page.locator("#compare-grid .cell img").first.wait_for()
    server.stop(signal.SIGKILL)
    server.start()
    page.reload()
    done(page, "compare-status")
    page.wait_for_function("document.querySelectorAll('#compare-grid .cell img').length == 3")
    page.locator("#compare-status summary").click()
    assert "going on where it was" in page.locator("#compare-status pre").inner_text()
    shot(page, "restart")
