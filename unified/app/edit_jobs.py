"""What the Edit page queues: inversions, edits by words or points, searches for directions; and its two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from unified.app import html
from unified.app.job import Job, State
from unified.app.site import Site, named, whole
from unified.directions_hook import direction_finders
from unified.errors import UserError

LONGEST = 300  # characters of a text
MOST_DRAGS = 8
SHOWN = 384  # pixels a side of the picture that points are set in
_INK, _PAPER = (214, 69, 69), (255, 255, 255)

Point = tuple[float, float]


def invert(
    site: Site, owner: str, *, files: Sequence[str], person: str, model: str, recipe: str, steps: Any, category: str
) -> Job:
    """Queue an inversion of one picture. Raises UserError for what cannot be run as it is written."""
    offer = site.models.offer(model)
    if recipe not in site.models.recipes(model):
        raise UserError(f"The recipe {recipe!r} does not run on {model}.")
    pictures, chosen = site.inputs(person, files[:1], leave_out=False)
    settings = {
        "person": chosen,
        "model": model,
        "recipe": recipe,
        "steps": whole(steps, what="Steps"),
        "name": named("<me>"),
        "category": category.strip() or offer.category,
    }
    return site.jobs.submit(owner, "invert", f"{person or 'my picture'}, {model} by {recipe}", settings, pictures)


def by_text(site: Site, owner: str, job: Job | None, prompt: str) -> Job:
    """Queue an edit by a text. Raises UserError without an inversion or a text."""
    settings = _of(job)
    text = prompt.strip().replace("{}", "<me>")
    if not text or len(text) > LONGEST:
        raise UserError(f"Say in 1 to {LONGEST} characters what shall be seen, such as 'a portrait of <me> smiling'.")
    text = text if "<me>" in text else f"<me> {text}"
    return site.jobs.submit(owner, "text-edit", text, {**settings, "prompt": text, "seed": 0})


def by_points(site: Site, owner: str, job: Job | None, points: Sequence[Point]) -> Job:
    """Queue a drag of pairs of points (from, to, from, to, ...). Raises UserError for none, or half a pair."""
    settings = _of(job)
    if len(points) < 2 or len(points) % 2:
        raise UserError("Click twice for each point: where it is, and where it shall be.")
    drags = [[list(a), list(b)] for a, b in zip(points[::2], points[1::2], strict=True)]
    title = f"{len(drags)} point{'s' if len(drags) != 1 else ''} dragged"
    return site.jobs.submit(owner, "drag", title, {**settings, "drags": drags})


def find(site: Site, owner: str, job: Job | None, method: str) -> Job:
    """Queue a search for directions of the job's model. Raises UserError without one, or for an unknown method."""
    model = _of(job)["model"]
    direction_finders.get(method)
    return site.jobs.submit(
        owner, "directions", f"directions of {model} by {method}", {"model": model, "method": method}
    )


def _of(job: Job | None) -> dict[str, Any]:
    if job is None or job.state is not State.DONE:
        raise UserError("There is nothing to edit yet: invert a picture first.")
    return {"concept": job.id, "model": job.settings["model"]}


def pair(site: Site, job: Job | None, after: str = "", *, caption: str = "") -> str:
    """Before and after as HTML; `after` (a data address) in place of what was inverted, if given."""
    if job is None:
        return html.before_after("", "")
    folder = site.folder(job)
    inverted = html.data_address(folder / "after.png")
    return html.before_after(
        html.data_address(folder / "before.png"),
        after or inverted,
        caption=caption or ("as inverted" if inverted else ""),
    )


def made_picture(site: Site, job: Job) -> str:
    """The picture of an edit that is done, as a data address; "" if it made none."""
    made = job.result.get("pictures", [])
    return html.data_address(site.folder(job) / "pictures" / made[0]["file"]) if made else ""


def pointed(site: Site, job: Job | None, points: Sequence[Point]) -> Image.Image | None:
    """The inverted picture, large, with the points set in it and arrows between pairs; None before there is one."""
    path = None if job is None else site.folder(job) / "after.png"
    if path is None or not path.is_file():
        return None
    with Image.open(path, formats=("PNG",)) as file:
        scale = SHOWN / file.width
        image = file.convert("RGB").resize((SHOWN, round(file.height * scale)), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    places = [((x + 0.5) * scale, (y + 0.5) * scale) for x, y in points]
    for a, b in zip(places[::2], places[1::2], strict=False):
        draw.line((*a, *b), fill=_PAPER, width=5)
        draw.line((*a, *b), fill=_INK, width=3)
    for number, (x, y) in enumerate(places):
        goal = number % 2 == 1
        box = (x - 7, y - 7, x + 7, y + 7)
        draw.ellipse(box, fill=_PAPER if goal else _INK, outline=_INK if goal else _PAPER, width=3)
    return image


def clicked(site: Site, job: Job | None, points: Sequence[Point], at: Sequence[float]) -> list[Point]:
    """The points with one more at a click of the large picture, in the picture's own pixels."""
    if job is None or len(points) >= 2 * MOST_DRAGS:
        return list(points)
    with Image.open(site.folder(job) / "after.png", formats=("PNG",)) as file:
        side = file.width
    x, y = (min(max(int(value * side / SHOWN), 0), side - 1) for value in at)
    return [*points, (float(x), float(y))]
