"""A person without a browser: what the pages send to the server, over HTTP, with a cookie of their own."""

from __future__ import annotations

import html
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

PREFIX = "/gradio_api"
LONG = 600.0  # seconds: others' jobs come first


class Person:
    """One browser's worth of requests to the app at `address`. Use as a context manager."""

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, timeout=LONG, trust_env=False)
        self._http.get("/")  # gives the cookie
        self.session = secrets.token_hex(6)
        config = self._http.get("/config").json()
        self._names: dict[int, str] = {c["id"]: c["props"].get("elem_id") or "" for c in config["components"]}
        self._handlers: list[dict[str, Any]] = config["dependencies"]
        self._made_by: dict[str, str] = {}  # job -> the button that asked for it

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """The file as fields of the page hold it."""
        answer = self._http.post(f"{PREFIX}/upload", files={"files": (name, data, "image/png")})
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def press(self, button: str, fields: Sequence[Any]) -> str:
        """Click a button that queues a job. Returns the job's id; raises AssertionError with what the page says."""
        handler = self._of(button)
        made = self._send(handler, fields)
        id = str(made[0])
        assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]{16}", id), f"no job was made: {_text(str(made))}"
        self._made_by[id] = button
        return id

    def follow(self, id: str, *, every: float = 0.5) -> Mapping[str, str]:
        """Look again and again, as the page does, until the job is over. Returns the page's parts as HTML by name."""
        holder = self._of(self._made_by[id])["outputs"][0]
        tick = next(h for h in self._handlers if h["targets"][0][1] == "tick" and h["inputs"][0] == holder)
        shown: dict[str, str] = {}
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            values = self._send(tick, [id, *[None] * (len(tick["inputs"]) - 1)])
            for component, value in zip(tick["outputs"], values, strict=True):
                if isinstance(value, str) and self._names[component]:
                    shown[self._names[component]] = value
            if any(over in str(shown) for over in ("app-status done", "app-status failed", "app-status cancelled")):
                return shown
            time.sleep(every)
        raise AssertionError(f"job {id} was not over after {LONG:.0f} seconds")

    def download(self, id: str, name: str) -> bytes | None:
        """A file of a job; None where the server says that there is none."""
        answer = self._http.get(f"/jobs/{id}/{name}")
        return answer.content if answer.status_code == 200 else None

    def _of(self, button: str) -> dict[str, Any]:
        return next(h for h in self._handlers if any(self._names.get(t[0]) == button for t in h["targets"]))

    def _send(self, handler: Mapping[str, Any], data: Sequence[Any]) -> list[Any]:
        """Call what stands behind a button or timer; returns its outputs."""
        asked = {"data": list(data), "fn_index": handler["id"], "session_hash": self.session, "event_data": None}
        joined = self._http.post(f"{PREFIX}/queue/join", json=asked)
        joined.raise_for_status()
        event = joined.json()["event_id"]
        address = f"{PREFIX}/queue/data?session_hash={self.session}"
        with self._http.stream("GET", address) as answer:
            for line in answer.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed" and message.get("event_id") == event:
                    assert message["success"], message["output"]
                    return list(message["output"]["data"])
        raise AssertionError("the server ended the answer before it was complete")


def _text(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", markup)).strip()
