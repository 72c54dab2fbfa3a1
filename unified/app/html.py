"""Pieces of pages as HTML; everything that people or files say is escaped."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from unified.app.job import Job, State
from unified.app.tools import Picture
from unified.comparison.store import png

TEMPLATES = Path(__file__).parent / "templates"
_SHOWN_SIDE = 384  # pixels: larger pictures are scaled down for the page; files keep their size
_CRISP = 128  # pixels: up to this side, pixels are shown as squares

_environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> str:
    return _environment.get_template(template).render(**values)


def css() -> str:
    return (TEMPLATES / "app.css").read_text(encoding="utf-8")


def data_address(picture: Path | bytes) -> str:
    """A PNG, at most 384 pixels a side, as a data address; "" while it is not there."""
    try:
        data = picture if isinstance(picture, bytes) else picture.read_bytes()
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if max(image.size) > _SHOWN_SIDE:
                image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                data = buffer.getvalue()
    except OSError:
        return ""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def note(text: str, *, kind: str = "problem") -> str:
    """A sentence in a box, or nothing. kind: problem or hint."""
    return render("note.html", text=text, kind=kind) if text else ""


def problems(refused: Mapping[str, str]) -> str:
    """Files that cannot be used, by name, each with its reason."""
    return render("refused.html", refused=refused) if refused else ""


def thumbnails(pictures: Mapping[str, bytes]) -> str:
    """The pictures that were accepted."""
    shown = [(name, data_address(data)) for name, data in pictures.items()]
    return render("thumbnails.html", pictures=shown) if shown else ""


def strip(pictures: Sequence[Picture]) -> str:
    """Pictures in a row with what each of them is below it."""
    shown = [(p.label, data_address(png(p.image[None]))) for p in pictures]
    crisp = bool(pictures) and pictures[0].image.shape[-1] <= _CRISP
    return render("strip.html", pictures=shown, crisp=crisp)


def kept_strip(folder: Path, job: Job) -> str:
    """The pictures that a job kept in its folder, in a row."""
    kept = job.result.get("pictures", [])
    shown = [(str(item["label"]), data_address(folder / "pictures" / str(item["file"]))) for item in kept]
    return render("strip.html", pictures=shown, crisp=True) if shown else ""


def before_after(before: str, after: str, *, caption: str = "") -> str:
    """Two pictures (data addresses) side by side; "" for one that is not there yet."""
    return render("before_after.html", before=before, after=after, caption=caption)


def status(job: Job, *, before: int = 0, made: tuple[int, int] | None = None) -> str:
    """How far a job is. before: jobs whose turn comes earlier. made: pictures done, of how many."""
    share = None
    if made is not None and made[1]:
        share = made[0] / made[1]
    step = job.step
    seconds = (job.finished or time.time()) - job.started if job.started else 0.0
    return render(
        "status.html",
        job=job,
        heading=_HEADINGS[job.state],
        before=before,
        made=made,
        share=share,
        step=step,
        step_share=step.done / step.total if step.total else None,
        seconds=_duration(seconds),
    )


_HEADINGS = {
    State.QUEUED: "Waiting",
    State.RUNNING: "Running",
    State.DONE: "Done",
    State.FAILED: "It did not work",
    State.CANCELLED: "Stopped",
}


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
