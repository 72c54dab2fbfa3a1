"""The Explore page: walks, ways between two, mixed styles, and attention for each word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from unified.app import html
from unified.app.job import Job, State
from unified.app.site import POLL, SET_ADDRESS, Site, address_job, hidden_job, job_choices, who, whole
from unified.app.tools import Picture, between_seeds, mix_styles, random_walk
from unified.contract.abilities import Attends, Maps, Reads, Renders
from unified.errors import UserError

_LEAD = "Look into the models' spaces: walk through them, go from one picture to another, mix, and see where words go."
_LARGEST_SEED = 2**31 - 1


def attention(site: Site, owner: str, *, model: str, prompt: str, seed: Any, concept: Job | None) -> Job:
    """Queue a picture with its maps. Raises UserError without a prompt, or for a concept of another model."""
    if model not in site.models.able(Attends, Reads):
        raise UserError(f"The attention of {model or 'no model'} cannot be read: choose another model.")
    text = prompt.strip()
    if not text or len(text) > 300:
        raise UserError("Write a prompt of 1 to 300 characters, such as 'a portrait of a man with glasses'.")
    if concept is not None and concept.settings["model"] != model:
        raise UserError(f"That concept was inverted on {concept.settings['model']}: choose that model.")
    settings = {
        "model": model,
        "prompt": text,
        "seed": _seed(seed),
        "concept": "" if concept is None else concept.id,
    }
    return site.jobs.submit(owner, "attention", text, settings)


def between(site: Site, owner: str, *, first: Job | None, second: Job | None, steps: Any, seed: Any) -> Job:
    """Queue the way between two inverted concepts. Raises UserError unless both are of one model and recipe."""
    if first is None or second is None:
        raise UserError("Choose two concepts: they are the inversions that this browser made on the Edit page.")
    if any(first.settings[key] != second.settings[key] for key in ("model", "recipe")):
        raise UserError("There is no way between these two: choose two of the same model and recipe.")
    settings = {
        "model": first.settings["model"],
        "first": first.id,
        "second": second.id,
        "steps": whole(steps, what="Pictures", least=2, most=16) or 7,
        "seed": _seed(seed),
    }
    return site.jobs.submit(owner, "between", f"{first.title} → {second.title}", settings)


def _seed(value: Any) -> int:
    return whole(value, what="Seed", least=0, most=_LARGEST_SEED) or 0


def build(site: Site, demo: gr.Blocks) -> None:
    """Lay out the page."""
    styled, attending = site.models.able(Renders, Maps), site.models.able(Attends, Reads)
    job = hidden_job()
    timer = gr.Timer(POLL, active=False)
    gr.HTML(html.render("lead.html", title="Explore", text=_LEAD))
    row = gr.HTML(html.render("empty.html", text=_EMPTY), elem_id="explore-row", render=False)
    status = gr.HTML(elem_id="explore-status", render=False)
    with gr.Tab("Random walk"):
        gr.HTML(
            _about(
                "Each picture turns the latent towards a new random direction, by the length of a step in radians."
                " Truncation below 1 keeps to likely pictures.",
                styled,
            )
        )
        with gr.Row():
            walk_model, walk_seed = _model(styled, "walk"), _number("Seed", 0, "walk-seed")
            walk_steps = gr.Slider(3, 16, 8, step=1, label="Pictures", min_width=160)
            walk_stride = gr.Slider(0.05, 1.5, 0.4, step=0.05, label="Length of a step", min_width=160)
            walk_truncation = _truncation()
        walk = gr.Button("Walk", variant="primary", elem_id="walk-go", scale=0, min_width=140, interactive=bool(styled))
    with gr.Tab("Between two seeds"):
        gr.HTML(_about("A straight line between the style vectors of two random samples.", styled))
        with gr.Row():
            seeds_model = _model(styled, "seeds")
            seed_a, seed_b = _number("From seed", 0, "seed-a"), _number("To seed", 1, "seed-b")
            seeds_steps = gr.Slider(3, 16, 7, step=1, label="Pictures", min_width=160)
            seeds_truncation = _truncation()
        seeds = gr.Button("Go", variant="primary", elem_id="seeds-go", scale=0, min_width=140, interactive=bool(styled))
    with gr.Tab("Mix styles"):
        gr.HTML(_about("Coarse layers (shape) of the first sample, fine layers (colour) of the second.", styled))
        with gr.Row():
            mix_model = _model(styled, "mix")
            mix_a, mix_b = _number("Coarse layers of seed", 0, "mix-a"), _number("Fine layers of seed", 1, "mix-b")
            mix_truncation = _truncation()
        mix = gr.Button("Mix", variant="primary", elem_id="mix-go", scale=0, min_width=140, interactive=bool(styled))
    with gr.Tab("Between two concepts"):
        gr.HTML(_about("From one picture you inverted on the Edit page to another, by the same model and recipe."))
        with gr.Row():
            concept_a = gr.Dropdown([], label="From", elem_id="concept-a")
            concept_b = gr.Dropdown([], label="To", elem_id="concept-b")
            concept_steps = gr.Slider(3, 16, 7, step=1, label="Pictures", min_width=160)
            concept_seed = _number("Seed", 0, "concept-seed")
        concepts = gr.Button("Go", variant="primary", elem_id="concepts-go", scale=0, min_width=140)
    with gr.Tab("Attention"):
        gr.HTML(_about("Where the picture attended to each word while it was made: bright is much.", attending))
        with gr.Row():
            map_model = _model(attending, "map")
            map_prompt = gr.Textbox(
                "a portrait of a person wearing sunglasses", label="Prompt", scale=3, elem_id="map-prompt"
            )
            map_concept = gr.Dropdown([("none", "")], value="", label="Concept, <me> in the prompt", min_width=160)
            map_seed = _number("Seed", 0, "map-seed")
        maps = gr.Button(
            "Look", variant="primary", elem_id="map-go", scale=0, min_width=140, interactive=bool(attending)
        )
    message = gr.HTML(elem_id="explore-message")
    status.render()
    row.render()
    stop = gr.Button("Stop", elem_id="explore-stop", visible=False, size="sm")

    follow = [status, row, timer, stop]

    def views(found: Job | None) -> tuple[Any, ...]:
        if found is None:
            return "", gr.skip(), gr.Timer(active=False), gr.Button(visible=False)
        more = not found.state.over
        made = html.kept_strip(site.folder(found), found) if found.state is State.DONE else gr.skip()
        state = html.status(found, before=site.jobs.before(found.id))
        return state, made, gr.Timer(active=more), gr.Button(visible=more)

    def at_once(make: Callable[[], list[Picture]]) -> tuple[Any, ...]:
        """A row that is drawn while one waits; a job that was shown before is let go."""
        try:
            return "", "", html.strip(make()), "", gr.Timer(active=False), gr.Button(visible=False)
        except UserError as error:
            return html.note(str(error)), gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip()

    def on_walk(name: str, seed: Any, steps: int, stride: float, truncation: float) -> tuple[Any, ...]:
        return at_once(
            lambda: random_walk(
                site.models.get(name), seed=_seed(seed), steps=int(steps), stride=stride, truncation=truncation
            )
        )

    def on_seeds(name: str, a: Any, b: Any, steps: int, truncation: float) -> tuple[Any, ...]:
        return at_once(
            lambda: between_seeds(
                site.models.get(name), first=_seed(a), second=_seed(b), steps=int(steps), truncation=truncation
            )
        )

    def on_mix(name: str, a: Any, b: Any, truncation: float) -> tuple[Any, ...]:
        return at_once(
            lambda: mix_styles(site.models.get(name), first=_seed(a), second=_seed(b), truncation=truncation)
        )

    def queued(make: Callable[[], Job], before: str) -> tuple[Any, ...]:
        try:
            made = site.begun(make())
        except UserError as error:
            return before, html.note(str(error)), *(gr.skip() for _ in follow)
        return made.id, "", *views(made)

    def on_concepts(
        a: str | None, b: str | None, steps: int, seed: Any, before: str, request: gr.Request
    ) -> tuple[Any, ...]:
        one, two = site.find(a or "", request), site.find(b or "", request)
        return queued(lambda: between(site, who(request), first=one, second=two, steps=steps, seed=seed), before)

    def on_maps(
        name: str | None, prompt: str, concept: str | None, seed: Any, before: str, request: gr.Request
    ) -> tuple[Any, ...]:
        of = site.find(concept or "", request)
        return queued(
            lambda: attention(site, who(request), model=name or "", prompt=prompt, seed=seed, concept=of), before
        )

    def on_tick(id: str, request: gr.Request) -> tuple[Any, ...]:
        return views(site.find(id, request))

    def on_stop(id: str, request: gr.Request) -> tuple[Any, ...]:
        site.stop(id, request)
        return views(site.find(id, request))

    def on_load(request: gr.Request) -> tuple[Any, ...]:
        found = site.find(address_job(request), request)
        done = job_choices([j for j in site.jobs.of(who(request), "invert") if j.state is State.DONE])
        lists = (
            gr.Dropdown(done, value=None),
            gr.Dropdown(done, value=None),
            gr.Dropdown([("none", ""), *done], value=""),
        )
        return "" if found is None else found.id, *lists, *views(found)

    hidden = {"show_progress": "hidden", "api_visibility": "private"}
    drawn = [message, job, row, status, timer, stop]
    quick = {"concurrency_limit": 2, "concurrency_id": "redraw", **hidden}
    walk.click(on_walk, [walk_model, walk_seed, walk_steps, walk_stride, walk_truncation], drawn, **quick)
    seeds.click(on_seeds, [seeds_model, seed_a, seed_b, seeds_steps, seeds_truncation], drawn, **quick)
    mix.click(on_mix, [mix_model, mix_a, mix_b, mix_truncation], drawn, **quick)
    for button, handler, fields in (
        (concepts, on_concepts, [concept_a, concept_b, concept_steps, concept_seed, job]),
        (maps, on_maps, [map_model, map_prompt, map_concept, map_seed, job]),
    ):
        button.click(handler, fields, [job, message, *follow], **hidden).then(None, job, None, js=SET_ADDRESS)
    timer.tick(on_tick, job, follow, **hidden)
    stop.click(on_stop, job, follow, **hidden)
    demo.load(on_load, None, [job, concept_a, concept_b, map_concept, *follow], **hidden)


_EMPTY = "Choose above what to look at; the pictures appear here."


def _about(text: str, models: list[str] | None = None) -> str:
    """What a tool does; and that no model here can do it, where that is so."""
    missing = html.note("None of the models in this installation can do this.") if models == [] else ""
    return html.note(text, kind="hint") + missing


def _model(names: list[str], id: str) -> gr.Dropdown:
    return gr.Dropdown(names, value=names[0] if names else None, label="Model", min_width=240, elem_id=f"{id}-model")


def _number(label: str, value: int, id: str) -> gr.Number:
    return gr.Number(value, precision=0, minimum=0, label=label, min_width=110, elem_id=id)


def _truncation() -> gr.Slider:
    return gr.Slider(0, 1.2, 0.7, step=0.05, label="Truncation", min_width=160)
