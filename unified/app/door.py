"""What stands before the app: who a browser is, which hosts it may be called by, and how much it may send.

Plain ASGI, so that streams pass untouched.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

COOKIE = "unified-browser"
_OWNER = re.compile(r"[0-9a-f]{32}")
_YEAR = 365 * 24 * 3600  # seconds

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def owner_of(cookies: Mapping[str, str]) -> str:
    """Whose browser sent these cookies; "" if they do not say."""
    value = cookies.get(COOKIE, "")
    return value if _OWNER.fullmatch(value) else ""


class _TooMuch(Exception):
    pass


class Door:
    """Gives each browser a cookie of its own, refuses other hosts' names and bodies beyond `most_bytes`.

    hosts: names that requests may come by (a page of another site could otherwise reach a local app through a
    name of its own); empty: any.
    """

    def __init__(self, app: Application, *, most_bytes: int, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.most_bytes = most_bytes
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        host = re.sub(r":\d+$", "", headers.get("host", "")).strip("[]")
        if self.hosts and host not in self.hosts:
            await _refuse(send, 400, f"This app is not called {host}: open it under its own address.")
            return
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.most_bytes:
            await _refuse(
                send, 413, f"At most {self.most_bytes // 2**20} MB are taken at once: send fewer or smaller files."
            )
            return
        cookie = "" if owner_of(_cookies(headers)) else secrets.token_hex(16)
        await self._pass(scope, receive, send, cookie)

    async def _pass(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, cookie: str) -> None:
        taken = 0
        begun = False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most_bytes:
                raise _TooMuch
            return message

        async def marked(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                extra = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
                if cookie:
                    text = f"{COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Lax; Max-Age={_YEAR}"
                    extra.append((b"set-cookie", text.encode()))
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        try:
            await self.app(scope, counted, marked)
        except _TooMuch:
            if not begun:
                await _refuse(send, 413, f"At most {self.most_bytes // 2**20} MB are taken at once.")


def _cookies(headers: Mapping[str, str]) -> dict[str, str]:
    try:
        return {key: morsel.value for key, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


async def _refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})
