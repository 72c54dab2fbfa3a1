"""The Catalog page: the survey's methods, searched by words, family, category and what runs here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import gradio as gr

from unified.app import html
from unified.app.site import Site
from unified.catalog.entries import Entry, Status, entries, find, survey_families
from unified.catalog.status import Listed, listed

_LEAD = "Every method of the survey of personalized image generation, and whether it runs here: by which command."
_ANY = "any"
_MOST_WORDS = 200  # letters of a search


def categories_of(entry: Entry) -> list[str]:
    """What the method personalises, one by one: "Style + Subject" is both."""
    return [part.strip() for part in entry.category.replace(" / ", " + ").split(" + ") if part.strip()]


def all_categories() -> list[str]:
    """Every category, the most frequent first."""
    return [name for name, _ in Counter(c for e in entries() for c in categories_of(e)).most_common()]


def search(*, words: str = "", family: str = "", category: str = "", status: Status | None = None) -> list[Listed]:
    """What of the survey matches all of these; "" and None leave one open. What runs comes first.

    words: all must stand in the entry, whatever the case. Raises UserError for a family that the survey lacks.
    """
    found = [
        listed(entry)
        for entry in find(family=family or None, search=words)
        if not category or category in categories_of(entry)
    ]
    order = list(Status)
    return sorted((one for one in found if status in (None, one.status)), key=lambda one: order.index(one.status))


def results(found: Sequence[Listed]) -> str:
    """What was found as HTML, with the number of each status above."""
    counts = {status.value: sum(one.status is status for one in found) for status in Status}
    return html.render("catalog.html", found=found, counts=counts, note=_NOTES)


_NOTES = {
    Status.RUNS: "",
    Status.EXPRESSIBLE: "No recipe of its own: this fills the same space by the same kind of method.",
    Status.NOT_YET: "",
}


def build(site: Site, demo: gr.Blocks) -> None:
    """Lay out the page."""
    gr.HTML(html.render("lead.html", title="Catalog", text=_LEAD))
    with gr.Row():
        words = gr.Textbox(
            label="Words",
            placeholder="such as: face encoder",
            max_length=_MOST_WORDS,
            scale=2,
            min_width=240,
            elem_id="catalog-words",
        )
        family = gr.Dropdown([_ANY, *survey_families()], value=_ANY, label="Family", elem_id="catalog-family")
        category = gr.Dropdown([_ANY, *all_categories()], value=_ANY, label="Category", elem_id="catalog-category")
        status = gr.Dropdown([_ANY, *(s.value for s in Status)], value=_ANY, label="Status", elem_id="catalog-status")
    shown = gr.HTML(elem_id="catalog-results")
    fields = [words, family, category, status]

    def on_search(words: str, family: str, category: str, status: str) -> str:
        def chosen(value: str | None) -> str:
            return "" if value in (None, _ANY) else str(value)

        wanted = Status(chosen(status)) if chosen(status) else None
        return results(
            search(words=(words or "")[:_MOST_WORDS], family=chosen(family), category=chosen(category), status=wanted)
        )

    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    gr.on([field.change for field in fields], on_search, fields, shown, **options)
    demo.load(on_search, fields, shown, show_progress="hidden", api_visibility="private")
