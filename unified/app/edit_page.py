"""The Edit page: invert a picture, then move it by sliders, words or points; before and after side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from unified.app import edit_jobs, html
from unified.app.edit import Editor, choices, readable, shown_first
from unified.app.edit_jobs import Point, clicked, made_picture, pair, pointed
from unified.app.job import Job, State
from unified.app.site import (
    POLL,
    SET_ADDRESS,
    Site,
    address_job,
    first_picture,
    hidden_job,
    job_choices,
    listed,
    people,
    who,
)
from unified.app.works import CONCEPT
from unified.contract.abilities import Renders
from unified.directions_hook import direction_finders
from unified.errors import UserError

SLOTS = 12  # sliders that are shown at once
Updates = dict[Any, Any]  # component -> its new value; the others stay as they are

_LEAD = (
    "Find a picture in a generator's space, then move it there: along directions with sliders, towards a text, or by"
    " dragging points. Start with a picture of your own or a person of the benchmark."
)
_FIRST = "Invert a picture: then the directions that are known for the model become sliders here."
_NONE_KNOWN = "No directions are known for this model yet. Find some below; it takes a minute or so."
_NO_STYLES = "This model has no style space to move in with sliders; change the picture by words instead."
_POINTS = "Click where a point is, then where it shall be; up to eight such pairs. Then drag."


def build(site: Site, demo: gr.Blocks) -> None:
    """Lay out the page."""
    editor = Editor(site.workshop)
    quick = site.models.able(Renders)  # those that sliders move; they come first
    models = sorted(site.models.offers, key=lambda name: name not in quick)
    first = models[0] if models else None
    draggable = [name for name in models if "drags" in site.models.asks(name)]
    job, side, ready = hidden_job(), gr.State(""), gr.State("")
    points = gr.State([])
    timer = gr.Timer(POLL, active=False)
    gr.HTML(html.render("lead.html", title="Edit", text=_LEAD))
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            person = gr.Dropdown(people(), value="", label="Who or what", elem_id="edit-person")
            files = gr.File(label="One picture", file_types=["image"], height=130, elem_id="edit-files")
            pictures = gr.HTML(elem_id="edit-pictures")
            model = gr.Dropdown(models, value=first, label="Model", elem_id="edit-model")
            recipe = gr.Dropdown(
                site.models.recipes(first) if first else [],
                label="Recipe",
                info="how the picture is found in the model; the first one is the model's default",
                elem_id="edit-recipe",
            )
            with gr.Row():
                category = gr.Textbox("person", label="What it is", min_width=120)
                steps = gr.Textbox(label="Steps", placeholder="the recipe's own", min_width=120, elem_id="edit-steps")
            message = gr.HTML(elem_id="edit-message")
            with gr.Row():
                go = gr.Button("Invert", variant="primary", elem_id="edit-go", interactive=bool(models))
                stop = gr.Button("Stop", elem_id="edit-stop", interactive=False)
            with gr.Accordion("Earlier inversions of this browser", open=False):
                earlier = gr.Dropdown([], label="Open again", elem_id="edit-earlier")
        with gr.Column(scale=3, min_width=360):
            view = gr.HTML(pair(site, None), elem_id="edit-view")
            status = gr.HTML(elem_id="edit-status")
            downloads = gr.HTML()
            with gr.Tab("Sliders"):
                told = gr.HTML(html.note(_FIRST, kind="hint"), elem_id="edit-told")
                chosen = gr.Dropdown(
                    [],
                    multiselect=True,
                    max_choices=SLOTS,
                    visible=False,
                    label=f"Directions, up to {SLOTS} at once",
                    elem_id="directions",
                )
                with gr.Group(elem_id="edit-sliders"):
                    slots = [gr.Slider(-4, 4, 0, step=0.1, visible=False, elem_id=f"slider-{i}") for i in range(SLOTS)]
                zero = gr.Button("All to zero", visible=False, size="sm", elem_id="zero")
                with gr.Accordion("Find directions of this model", open=False, visible=False) as search:
                    method = gr.Dropdown(direction_finders.names(), label="Method", elem_id="finder")
                    seek = gr.Button("Find", elem_id="find-go")
            with gr.Tab("Words"):
                words = gr.Textbox(
                    label="What shall be seen",
                    placeholder="a portrait of <me> with sunglasses",
                    info="<me> stands for who was inverted",
                    elem_id="words",
                )
                change = gr.Button("Change", elem_id="words-go")
            with gr.Tab("Points", visible=bool(draggable)):
                gr.HTML(html.note(_POINTS, kind="hint"))
                canvas = gr.Image(
                    interactive=False,
                    show_label=False,
                    buttons=[],
                    width=edit_jobs.SHOWN,
                    elem_id="points",
                    format="png",
                )
                with gr.Row():
                    drag = gr.Button("Drag", elem_id="drag-go")
                    clear = gr.Button("Clear the points", elem_id="drag-clear")
            side_status = gr.HTML(elem_id="side-status")

    def sliders(names: Sequence[str]) -> Updates:
        """One for each name at zero, the rest hidden."""
        return {
            slot: gr.Slider(label=readable(names[i]), value=0, visible=True)
            if i < len(names)
            else gr.Slider(value=0, visible=False)
            for i, slot in enumerate(slots)
        }

    def inverted(found: Job | None) -> Updates:
        """Everything that depends on the inversion, when its state is another one."""
        done = found is not None and found.state is State.DONE
        known = editor.directions(found) if found is not None and done else {}
        slides = found is not None and done and editor.is_quick(found)
        hint = _FIRST if not done else "" if known else _NONE_KNOWN if slides else _NO_STYLES
        names = shown_first(known, SLOTS)
        links = html.render("concept.html", address=f"/jobs/{found.id}/{CONCEPT}") if found is not None and done else ""
        return {
            view: pair(site, found),
            downloads: links,
            told: html.note(hint, kind="hint"),
            chosen: gr.Dropdown(choices(known), value=names, visible=bool(known)),
            zero: gr.Button(visible=bool(known)),
            search: gr.Accordion(visible=slides),
            canvas: pointed(site, found if done else None, []),
            points: [],
            **sliders(names),
        }

    def beside(found: Job, other: Job) -> Updates:
        """What an edit by words or points, or a search, made of it, once it is over."""
        if other.kind == "directions":
            return inverted(found)
        made = made_picture(site, other)
        return {view: pair(site, found, made, caption=other.title if made else "")}

    def views(found: Job | None, other: Job | None, was: str) -> Updates:
        """The right side. other: the edit or search that runs beside; was: what `ready` said before."""
        now = " ".join(f"{each.id} {each.state}" for each in (found, other) if each is not None)
        running = any(each is not None and not each.state.over for each in (found, other))
        updates: Updates = {
            status: "" if found is None else html.status(found, before=site.jobs.before(found.id)),
            side_status: "" if other is None else html.status(other, before=site.jobs.before(other.id)),
            side: "" if other is None else other.id,
            ready: now,
            timer: gr.Timer(active=running),
            stop: gr.Button(interactive=running),
        }
        if found is not None and other is not None:
            return updates | (beside(found, other) if now != was and other.state.over else {})
        return updates | (inverted(found) if now != was or found is None else {})

    def on_go(
        paths: Any, name: str, model_: str, recipe_: str, steps_: str, class_: str, request: gr.Request
    ) -> Updates:
        try:
            made = edit_jobs.invert(
                site,
                who(request),
                files=listed(paths),
                person=name,
                model=model_ or "",
                recipe=recipe_ or "",
                steps=steps_,
                category=class_,
            )
        except UserError as error:
            return {message: html.note(str(error))}
        return {job: made.id, message: "", **views(site.begun(made), None, "")}

    def queued(id: str, request: gr.Request, make: Callable[[Job | None], Job]) -> Updates:
        """An edit or search beside the inversion that is shown."""
        found = site.find(id, request)
        try:
            other = site.begun(make(found))
        except UserError as error:
            return {side_status: html.note(str(error))}
        return views(found, other, "")

    def on_words(id: str, text: str, request: gr.Request) -> Updates:
        return queued(id, request, lambda found: edit_jobs.by_text(site, who(request), found, text))

    def on_drag(id: str, set_: list[Point], request: gr.Request) -> Updates:
        return queued(id, request, lambda found: edit_jobs.by_points(site, who(request), found, set_))

    def on_seek(id: str, name: str, request: gr.Request) -> Updates:
        return queued(id, request, lambda found: edit_jobs.find(site, who(request), found, name or ""))

    def on_tick(id: str, other: str, was: str, request: gr.Request) -> Updates:
        return views(site.find(id, request), site.find(other, request), was)

    def on_stop(id: str, other: str, request: gr.Request) -> Updates:
        site.stop(other, request)
        site.stop(id, request)
        return views(site.find(id, request), site.find(other, request), "")

    def on_load(request: gr.Request) -> Updates:
        found = site.find(address_job(request), request)
        mine = job_choices(site.jobs.of(who(request), "invert"))
        return {job: found.id if found else "", earlier: gr.Dropdown(mine, value=None), **views(found, None, "")}

    def on_open(id: str | None, before: str, request: gr.Request) -> Updates:
        found = site.find(id or before, request)
        return {job: found.id if found else "", **views(found, None, "")}

    def on_slide(request: gr.Request, id: str, names: list[str], *values: float) -> str:
        found = site.find(id, request)
        edits = dict(zip(names, values, strict=False))
        caption = ", ".join(f"{readable(name)} {value:+g}" for name, value in edits.items() if value)
        try:
            return pair(site, found, editor.redraw(found, edits) if found is not None else "", caption=caption)
        except UserError as error:
            return pair(site, found) + html.note(str(error))

    def on_zero(id: str, request: gr.Request) -> Updates:
        return {view: pair(site, site.find(id, request)), **dict.fromkeys(slots, 0)}

    def on_point(id: str, set_: list[Point], request: gr.Request, event: gr.SelectData) -> Updates:
        found = site.find(id, request)
        now = clicked(site, found, set_, event.index)
        return {points: now, canvas: pointed(site, found, now)}

    def on_clear(id: str, request: gr.Request) -> Updates:
        return {points: [], canvas: pointed(site, site.find(id, request), [])}

    def on_model(name: str) -> Any:
        found = site.models.recipes(name)
        return gr.Dropdown(found, value=found[0] if found else None)

    def on_person(name: str) -> Updates:
        return {files: gr.File(visible=not name), pictures: html.thumbnails(first_picture(name)) if name else ""}

    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    below = [view, status, downloads, told, chosen, *slots, zero, search, canvas, points]
    follow = [*below, side_status, side, ready, timer, stop]
    model.change(on_model, model, recipe, **hidden)
    person.change(on_person, person, [files, pictures], **hidden)
    files.change(lambda path: site.checked(path)[0], files, pictures, **hidden)
    fields = [files, person, model, recipe, steps, category]
    go.click(on_go, fields, [job, message, *follow], **hidden).then(None, job, None, js=SET_ADDRESS)
    stop.click(on_stop, [job, side], follow, **hidden)
    gr.on([change.click, words.submit], on_words, [job, words], follow, **hidden)
    drag.click(on_drag, [job, points], follow, **hidden)
    seek.click(on_seek, [job, method], follow, **hidden)
    timer.tick(on_tick, [job, side, ready], follow, **hidden)
    earlier.input(on_open, [earlier, job], [job, *follow], **hidden).then(None, job, None, js=SET_ADDRESS)
    chosen.input(sliders, chosen, slots, **hidden)
    redraw = {"trigger_mode": "always_last", "concurrency_limit": 2, "concurrency_id": "redraw"}
    for slot in slots:
        slot.input(on_slide, [job, chosen, *slots], view, **redraw, **hidden)
    zero.click(on_zero, job, [view, *slots], **hidden)
    # Quick clicks all count, in their order.
    each = {"trigger_mode": "multiple", "concurrency_limit": 1}
    canvas.select(on_point, [job, points], [points, canvas], **each, **hidden)
    clear.click(on_clear, job, [points, canvas], **hidden)
    demo.load(on_load, None, [job, earlier, *follow], **hidden)
