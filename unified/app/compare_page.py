"""The Compare page: pictures, runs and prompts in; a grid that fills while one watches, and a report out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from unified.app import html
from unified.app.grid import cells, grid, total
from unified.app.job import Job
from unified.app.site import (
    POLL,
    SET_ADDRESS,
    Site,
    address_job,
    hidden_job,
    job_choices,
    listed,
    named,
    people,
    pictures_of,
    who,
    whole,
)
from unified.comparison.ask import default_prompts, read_asks
from unified.comparison.references import BENCHMARK
from unified.errors import UserError

_MOST_PROMPTS, _MOST_RUNS, _MOST_SEEDS, _LONGEST = 30, 12, 4, 300


def submit(
    site: Site, owner: str, *, files: Sequence[str], person: str, leave_out: bool, runs: Sequence[str], prompts: str,
    name: str, category: str, seeds: int, steps: Any,
) -> Job:  # fmt: skip
    """Queue a comparison. Raises UserError for what cannot be run as it is written."""
    name = named(name)
    texts = list(dict.fromkeys(line.strip() for line in prompts.splitlines() if line.strip()))
    if len(texts) > _MOST_PROMPTS or any(len(text) > _LONGEST for text in texts):
        raise UserError(f"Give at most {_MOST_PROMPTS} prompts of at most {_LONGEST} characters, one on each line.")
    if not runs:
        raise UserError("There is no run: choose at least one model with its recipe.")
    if len(runs) > _MOST_RUNS:
        raise UserError(f"{len(runs)} runs were chosen; at most {_MOST_RUNS} are compared at once.")
    unknown = sorted(set(runs) - set(site.models.runs()))
    if unknown:
        raise UserError(f"There is no run {unknown[0]!r} here.")
    if not category.strip():
        raise UserError("What is it? Give the class word, such as person: several recipes start from it.")
    read_asks(texts, name=name, category=category)
    pictures, chosen = site.inputs(person, files, leave_out=leave_out)
    settings = {
        "person": chosen,
        "runs": list(runs),
        "prompts": texts,
        "seeds": list(range(whole(seeds, what="Pictures of each prompt", most=_MOST_SEEDS) or 1)),
        "name": name,
        "category": category.strip(),
        "steps": whole(steps, what="Steps"),
    }
    what = person or f"{len(pictures)} picture{'s' if len(pictures) != 1 else ''}"
    title = f"{name} ({what}), {len(runs)} run{'s' if len(runs) != 1 else ''}"
    return site.jobs.submit(owner, "compare", title, settings, pictures)


def shown(site: Site, job: Job | None, seen: str) -> tuple[str, Any, str, str, bool]:
    """(status, grid or a skip if `seen` is what it would say, downloads, what is seen now, whether to look again)."""
    if job is None:
        return "", _EMPTY, "", "", False
    folder = site.folder(job)
    found = cells(folder / "work", job.settings)
    status = html.status(job, before=site.jobs.before(job.id), made=(len(found), total(job.settings)))
    for line in job.result.get("notes", []):
        status += html.note(line, kind="hint")
    downloads = html.render("downloads.html", folder=f"/jobs/{job.id}") if (folder / "report.zip").exists() else ""
    now = f"{job.id} {job.state} {len(found)}"
    failed = job.result.get("failed", {})
    # Pictures are read for a page only when there are other ones than it shows.
    markup = gr.skip() if now == seen else grid(job.settings, found, running=not job.state.over, failed=failed)
    return status, markup, downloads, now, not job.state.over


_EMPTY = html.render(
    "empty.html",
    text="The pictures of every run appear here side by side, a row for each prompt, as soon as they are made.",
)


def build(site: Site, demo: gr.Blocks) -> None:
    """Lay out the page."""
    job, seen = hidden_job(), gr.State("")
    timer = gr.Timer(POLL, active=False)
    default = "\n".join(str(text).replace("{}", "<me>") for text in default_prompts())
    gr.HTML(html.render("lead.html", title="Compare", text=_LEAD))
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            person = gr.Dropdown(people(), value="", label="Who or what", elem_id="compare-person")
            files = gr.File(
                label="Pictures of one thing, 3 to 5 of them",
                file_count="multiple",
                file_types=["image"],
                height=150,
                elem_id="compare-files",
            )
            pictures = gr.HTML(elem_id="compare-pictures")
            leave_out = gr.Checkbox(
                False, label="Leave out the files that cannot be used, and go on", visible=False, elem_id="leave-out"
            )
            runs = gr.Dropdown(
                site.models.runs(),
                value=site.models.default_runs(),
                multiselect=True,
                label="Runs: model and recipe",
                info="“category” is the model without the concept, to compare with",
                elem_id="runs",
            )
            prompts = gr.Textbox(
                default, lines=6, max_lines=12, label="Prompts, one on each line", elem_id="prompts",
                info="the name below says where the concept goes",
            )  # fmt: skip
            with gr.Row():
                name = gr.Textbox("<me>", label="Name in prompts", min_width=120, elem_id="name")
                category = gr.Textbox("person", label="What it is", min_width=120, elem_id="category")
            with gr.Row():
                seeds = gr.Number(
                    1, precision=0, minimum=1, maximum=_MOST_SEEDS, label="Pictures of each prompt", min_width=120
                )  # fmt: skip
                steps = gr.Textbox(label="Steps", placeholder="each recipe's own", min_width=120, elem_id="steps")
            message = gr.HTML(elem_id="compare-message")
            with gr.Row():
                go = gr.Button("Compare", variant="primary", elem_id="compare-go")
                stop = gr.Button("Stop", elem_id="compare-stop", interactive=False)
        with gr.Column(scale=5, min_width=360):
            status = gr.HTML(elem_id="compare-status")
            downloads = gr.HTML(elem_id="compare-downloads")
            table = gr.HTML(_EMPTY, elem_id="compare-grid")
            with gr.Accordion("Earlier comparisons of this browser", open=False):
                earlier = gr.Dropdown([], label="Open again", elem_id="compare-earlier")

    follow = [status, table, downloads, seen, timer, stop]

    def views(found: Job | None, already: str) -> tuple[Any, ...]:
        state, markup, links, now, more = shown(site, found, already)
        return state, markup, links, now, gr.Timer(active=more), gr.Button(interactive=more)

    def on_go(
        paths: Any, who_: str, leave: bool, chosen: list[str], texts: str, word: str, class_: str, count: int,
        number: Any, before: str, request: gr.Request,
    ) -> tuple[Any, ...]:  # fmt: skip
        try:
            made = submit(
                site, who(request), files=listed(paths), person=who_, leave_out=leave, runs=chosen, prompts=texts,
                name=word, category=class_, seeds=count, steps=number,
            )  # fmt: skip
        except UserError as error:
            return before, html.note(str(error)), *(gr.skip() for _ in follow)
        return made.id, "", *views(site.begun(made), "")

    def asked(found: Job | None) -> list[Any]:
        """The fields as they were when the job was asked for, so that a reload shows what belongs together."""
        if found is None:
            return [gr.skip()] * 7
        was = found.settings
        number = "" if was["steps"] is None else str(was["steps"])
        who_ = str(was["person"]).removeprefix(BENCHMARK)
        return [who_, was["runs"], "\n".join(was["prompts"]), was["name"], was["category"], len(was["seeds"]), number]

    def on_load(request: gr.Request) -> tuple[Any, ...]:
        found = site.find(address_job(request), request)
        mine = job_choices(site.jobs.of(who(request), "compare"))
        chosen = "" if found is None else found.id
        return chosen, gr.Dropdown(mine, value=None), *asked(found), *views(found, "")

    def on_tick(id: str, already: str, request: gr.Request) -> tuple[Any, ...]:
        return views(site.find(id, request), already)

    def on_open(id: str | None, before: str, request: gr.Request) -> tuple[Any, ...]:
        found = site.find(id or before, request)
        return "" if found is None else found.id, *asked(found), *views(found, "")

    def on_stop(id: str, already: str, request: gr.Request) -> tuple[Any, ...]:
        site.stop(id, request)
        return views(site.find(id, request), already)

    def on_files(paths: Any) -> tuple[str, Any]:
        markup, refused = site.checked(paths)
        return markup, gr.Checkbox(visible=refused)

    def on_person(chosen: str) -> tuple[Any, str]:
        own = not chosen
        return gr.File(visible=own), "" if own else html.thumbnails(pictures_of(chosen))

    hidden = {"show_progress": "hidden", "api_visibility": "private"}
    files.change(on_files, files, [pictures, leave_out], **hidden)
    person.change(on_person, person, [files, pictures], **hidden)
    fields = [files, person, leave_out, runs, prompts, name, category, seeds, steps, job]
    go.click(on_go, fields, [job, message, *follow], **hidden).then(None, job, None, js=SET_ADDRESS)
    stop.click(on_stop, [job, seen], follow, **hidden)
    timer.tick(on_tick, [job, seen], follow, **hidden)
    restored = [person, runs, prompts, name, category, seeds, steps]
    earlier.input(on_open, [earlier, job], [job, *restored, *follow], **hidden).then(None, job, None, js=SET_ADDRESS)
    demo.load(on_load, None, [job, earlier, *restored, *follow], **hidden)


_LEAD = (
    "Give a few pictures of one person or thing to several kinds of generators, ask all of them for the same"
    " prompts, and see who keeps the likeness and who follows the words."
)
