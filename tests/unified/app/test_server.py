"""What stands before the app, and what is said where gradio is missing."""

import asyncio
import importlib.util
import re
import time
from pathlib import Path
from typing import Any

import pytest

from unified.app.door import COOKIE, Door, owner_of
from unified.app.jobs import Jobs
from unified.app.server import Settings, _own_names, need_gradio
from unified.app.store import JobStore
from unified.errors import UserError


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says how much it was sent."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def call(headers: dict[str, str], *, body: int = 0, hosts: tuple[str, ...] = ("127.0.0.1",)) -> tuple[int, dict, str]:
    """(status, headers, text) of one request with `body` bytes in parts of 100."""
    sent: list[Any] = []
    left = [body]

    async def receive() -> Any:
        part = min(left[0], 100)
        left[0] -= part
        return {"type": "http.request", "body": bytes(part), "more_body": left[0] > 0}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(key.encode(), value.encode()) for key, value in headers.items()]
    door = Door(echo, most_bytes=1000, hosts=hosts)
    asyncio.run(door({"type": "http", "headers": raw}, receive, send))
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], found, sent[1]["body"].decode()


def test_each_browser_gets_a_cookie_of_its_own_once() -> None:
    first, second = (call({"host": "127.0.0.1:7860"})[1]["set-cookie"] for _ in range(2))
    assert first != second and "HttpOnly" in first and "SameSite=Lax" in first
    value = re.search(rf"{COOKIE}=([0-9a-f]+)", first)
    assert value is not None and owner_of({COOKIE: value[1]}) == value[1]
    status, headers, _ = call({"host": "127.0.0.1", "cookie": f"{COOKIE}={value[1]}; other=1"})
    assert status == 200 and "set-cookie" not in headers
    assert "set-cookie" in call({"host": "127.0.0.1", "cookie": f"{COOKIE}=../../etc"})[1]  # nothing but our own form


def test_bodies_are_bounded_whether_they_say_their_length_or_not() -> None:
    host = {"host": "127.0.0.1"}
    assert call({**host, "content-length": "1000"}, body=1000)[2] == "1000"
    assert call({**host, "content-length": str(200 * 2**20)})[0] == 413
    assert call(host, body=1001)[0] == 413


def test_a_local_app_answers_to_its_own_names_alone() -> None:
    assert call({"host": "evil.example:7860"})[0] == 400
    assert call({"host": "evil.example"}, hosts=())[0] == 200
    assert "localhost" in _own_names("127.0.0.1") and "::1" in _own_names("::1")
    assert _own_names("0.0.0.0") == [] and _own_names("192.168.1.5") == []


def test_it_listens_on_this_machine_alone_by_default(tmp_path: Path) -> None:
    assert Settings(tmp_path).host == "127.0.0.1"


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\[app\]"):
        need_gradio()


def test_a_comparison_that_was_stopped_resumes_without_doing_anything_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unified.app.test_jobs import over
    from tests.unified.app.tiny_server import tiny_shop
    from unified.app.grid import cells, grid, total
    from unified.contract.backbone import Backbone

    shop = tiny_shop(Settings(tmp_path))
    made: list[str] = []
    generate, invert = Backbone.generate, Backbone.invert
    jobs = Jobs(shop.store, shop.works())

    def counted(self: Backbone, *arguments: Any, **options: Any) -> Any:
        made.append(str(options.get("prompt")))
        image = generate(self, *arguments, **options)
        if len(made) == 2:
            jobs._stopping.set()  # the server is stopped when the second picture is done
        return image

    def inverted(self: Backbone, *arguments: Any, **options: Any) -> Any:
        made.append("inversion")
        return invert(self, *arguments, **options)

    monkeypatch.setattr(Backbone, "generate", counted)
    monkeypatch.setattr(Backbone, "invert", inverted)
    settings = {
        "person": "avatarbench/person-03",
        "runs": ["tiny/stable-diffusion:textual-inversion"],
        "prompts": ["<me> one", "{} <b>two</b>", "<me> three"],
        "seeds": [0],
        "name": "<me>",
        "category": "person",
        "steps": 1,
    }
    job = jobs.submit("me", "compare", "c", settings)
    jobs.start()
    assert jobs._thread is not None
    jobs._thread.join(60)
    begun = list(made)
    assert begun[0] == "inversion" and len(begun) == 2

    again = Jobs(shop.store, {**shop.works(), "idle": lambda task: {}})
    again.start()
    (done,) = over(again, job)
    again.stop()
    assert done.state == "done", done.error
    assert made[2:] == ["<me> <b>two</b>", "<me> three"]
    folder = shop.store.path(job.id)
    assert (folder / "report.zip").stat().st_size > 1000 and (folder / "report" / "report.html").exists()
    found = cells(folder / "work", done.settings)
    assert len(found) == total(done.settings) == 3
    markup = grid(done.settings, found, running=False, failed={})
    assert "&lt;b&gt;two&lt;/b&gt;" in markup and "<b>two" not in markup
    assert markup.count("data:image/png") == 3 and "Identity" in markup
    assert JobStore(tmp_path / "jobs").read(job.id).attempts == 1


def test_pages_answer_and_files_are_for_the_browser_that_asked_for_them(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the app needs gradio")
    from starlette.testclient import TestClient

    from tests.unified.app.tiny_server import tiny_shop
    from unified.app.server import application

    settings = Settings(tmp_path)
    shop = tiny_shop(settings)
    jobs = Jobs(shop.store, shop.works())
    app = application(settings, shop, jobs)

    def arrive() -> TestClient:
        return TestClient(app, base_url="http://127.0.0.1:7860")

    me, you = arrive(), arrive()
    for page in ("/", "/edit", "/explore", "/catalog"):
        assert me.get(page).status_code == 200
    upload = {"files": ("huge.png", b"\x89PNG" + bytes(settings.bounds.bytes), "image/png")}
    assert me.post("/gradio_api/upload", files=upload).status_code == 413
    you.get("/")
    job = jobs.submit(me.cookies[COOKIE], "compare", "c", {"person": ""}, {"report/report.html": b"<p>mine"})
    address = f"/jobs/{job.id}"
    assert me.get(f"{address}/report.html").text == "<p>mine"
    assert me.get(f"{address}/report.html").headers["content-disposition"].startswith("inline")
    assert me.get(f"{address}/report.html?download=1").headers["content-disposition"].startswith("attachment")
    assert you.get(f"{address}/report.html").status_code == 404
    for name in ("report.zip", "job.json", "../jobs", "%2e%2e/%2e%2e/.lock"):
        assert me.get(f"{address}/{name}").status_code == 404


def test_the_edit_page_begins_with_a_model_that_sliders_move(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the app needs gradio")
    from starlette.testclient import TestClient

    from tests.unified.app.tiny_server import tiny_models
    from unified.app.models import Models
    from unified.app.server import application, workshop

    offers = list(tiny_models().offers.values())
    for order in (offers, offers[::-1]):
        settings = Settings(tmp_path)
        shop = workshop(settings, Models(order))
        client = TestClient(
            application(settings, shop, Jobs(shop.store, shop.works())), base_url="http://127.0.0.1:7860"
        )
        fields = {c["props"].get("elem_id"): c["props"] for c in client.get("/config").json()["components"]}
        assert fields["edit-model"]["value"] == "tiny/stylegan"
        assert fields["edit-model"]["choices"][0][1] == "tiny/stylegan"


def test_the_answer_to_a_click_says_how_the_job_goes(tmp_path: Path) -> None:
    """It waits a moment for a job whose turn it is, and not for one that others come before."""
    pytest.importorskip("gradio", reason="the app needs gradio")
    from tests.unified.app.test_jobs import Gate
    from tests.unified.app.tiny_server import tiny_shop
    from unified.app.jobs import Task
    from unified.app.site import Site

    gate = Gate()

    def work(task: Task) -> Any:
        task.say("Getting ready")
        return gate(task)

    shop = tiny_shop(Settings(tmp_path))
    jobs = Jobs(shop.store, {"wait": work})
    site = Site(shop, jobs)
    jobs.start()
    first = site.begun(jobs.submit("me", "wait", "first", {}))
    assert first.state == "running" and first.lines == ("Getting ready",)
    begun = time.monotonic()
    second = site.begun(jobs.submit("me", "wait", "second", {}))
    assert second.state == "queued" and time.monotonic() - begun < 0.3
    gate.open.set()
    jobs.stop()
