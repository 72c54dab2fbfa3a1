"""How long a person waits: `python -m tests.perf.app_latency --help`. Needs playwright and a Chromium.

The app with the embedded models runs in a process of its own, and a headless Chromium works its pages. Measured in
the page, by its own clock:
- from a click on Compare or Invert until the job's first progress is on the page (aim: 2 s);
- from a slider's input until the picture drawn for it is decoded and painted (aim: 300 ms for avatars/stylegan2).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.unified.app.pages import CHROMIUM, FLAGS, choose, done
from tests.unified.app.process import server

LONG = 240_000  # milliseconds: loading the models counts
MODEL = "avatars/stylegan2"

#: Remembers when a button was clicked, when its status then said anything new, and when the job was seen to go on.
_WATCH_PROGRESS = """([button, status]) => {
  const times = window.progress = {};
  const place = document.querySelector(status);
  let old = place.innerHTML, fresh = false;
  document.querySelector(button).addEventListener('click', () => times.click = performance.now(),
    {capture: true, once: true});
  new MutationObserver(() => {
    if (times.click === undefined || place.innerHTML === old) return;
    const now = performance.now();
    times.sign ??= now;
    fresh ||= place.querySelector('.app-status.queued, .app-status.running') !== null;
    if (fresh && place.querySelector('.app-status.running .line, .app-status.done')) times.line ??= now;
  }).observe(place, {childList: true, subtree: true, characterData: true, attributes: true});
}"""

#: Moves a slider as a hand does, and waits for another picture to be painted; resolves to milliseconds.
_SLIDE = """([slider, value]) => new Promise((resolve, reject) => {
  const input = document.querySelector(slider);
  const source = () => document.querySelector('#edit-view img.after').src;
  const before = source();
  const timeout = setTimeout(() => reject('no other picture came'), 60000);
  const watch = new MutationObserver(async () => {
    if (source() === before) return;
    watch.disconnect();
    await document.querySelector('#edit-view img.after').decode();
    requestAnimationFrame(() => requestAnimationFrame(() => {
      clearTimeout(timeout);
      resolve(performance.now() - begun);
    }));
  });
  watch.observe(document.querySelector('#edit-view'),
    {childList: true, subtree: true, attributes: true, attributeFilter: ['src']});
  const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
  const begun = performance.now();
  set.call(input, value);
  input.dispatchEvent(new Event('input', {bubbles: true}));
})"""


def first_progress(page: Any, button: str, status: str) -> tuple[float, float]:
    """(seconds until anything is said, seconds until the job is seen to run) after a click."""
    page.evaluate(_WATCH_PROGRESS, [button, status])
    page.locator(button).click()
    page.wait_for_function("window.progress.line")
    found = page.evaluate("window.progress")
    return (found["sign"] - found["click"]) / 1000, (found["line"] - found["click"]) / 1000


def slides(page: Any, repeats: int) -> list[float]:
    """Milliseconds of each redraw; values go to and fro, and no value comes twice in a row."""
    found = []
    for number in range(repeats):
        value = round(((-1) ** number) * (0.5 + 3 * number / repeats), 1)
        found.append(float(page.evaluate(_SLIDE, ["#slider-0 input[type=range]", str(value)])))
    return found


def measure(address: str, repeats: int) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        page.set_default_timeout(LONG)
        page.goto(f"{address}/edit")
        choose(page, "edit-person", "person-01")
        choose(page, "edit-model", MODEL)
        page.locator("#edit-steps input, #edit-steps textarea").fill("5")
        for which in ("models not yet loaded", "models loaded"):
            page.locator("#edit-go:enabled").wait_for()
            sign, line = first_progress(page, "#edit-go", "#edit-status")
            print(f"Edit, {which}: something is said after {sign:.2f} s, first progress after {line:.2f} s")
            done(page, "edit-status")
            page.wait_for_timeout(1000)  # the last look at the job is over
        page.locator("#slider-0 input[type=range]").wait_for()
        found = slides(page, repeats + 1)
        cold, warm = found[0], sorted(found[1:])
        print(
            f"Slider, {MODEL}, {repeats} redraws: median {statistics.median(warm):.0f} ms,"
            f" 90 % within {warm[int(0.9 * (len(warm) - 1))]:.0f} ms, slowest {warm[-1]:.0f} ms; the very first"
            f" {cold:.0f} ms"
        )
        page.goto(address)
        choose(page, "compare-person", "person-01")
        page.locator("#steps input, #steps textarea").fill("1")
        sign, line = first_progress(page, "#compare-go", "#compare-status")
        print(f"Compare: something is said after {sign:.2f} s, first progress after {line:.2f} s")
        page.locator("#compare-stop").click()
        page.locator("#compare-status .app-status.cancelled, #compare-status .app-status.done").wait_for()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=30, help="redraws by a slider")
    parser.add_argument("--address", default="", help="of an app that runs already; default: start one")
    options = parser.parse_args()
    if not CHROMIUM:
        parser.error("no Chromium was found; set UNIFIED_CHROMIUM to its path")
    if options.address:
        measure(options.address, options.repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = ("-m", "unified.cli", "app", "--port", "0", "--folder", f"{folder}/app")
        with server(command, Path(folder) / "server.log") as (address, _):
            measure(address, options.repeats)


if __name__ == "__main__":
    main()
