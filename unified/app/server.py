"""The web server: its pages, the downloads, and the queue behind them."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unified.app import html
from unified.app.door import Door
from unified.app.jobs import Jobs, Limits
from unified.app.models import Models, embedded_offers
from unified.app.store import JobStore, OneServer
from unified.app.uploads import Bounds
from unified.app.works import Workshop
from unified.comparison.scorers import Scorers, embedded_scorers
from unified.errors import UserError
from unified.files import cache_folder


@dataclass(frozen=True)
class Settings:
    """folder: of the jobs. host, port: where to listen; port 0 takes a free one. request_bytes: of one request."""

    folder: Path
    host: str = "127.0.0.1"
    port: int = 7860
    bounds: Bounds = field(default_factory=Bounds)
    limits: Limits = field(default_factory=Limits)
    request_bytes: int = 64 * 2**20


def default_folder() -> Path:
    return cache_folder() / "app"


def need_gradio() -> None:
    """Raises UserError, naming the extra, where gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError(
            "The app needs gradio, which is not installed: install the extra with"
            " `pip install 'unified-personalization[app]'`."
        )


def workshop(
    settings: Settings, models: Models | None = None, *, make_scorers: Callable[[], Scorers] = embedded_scorers
) -> Workshop:
    """models: what is offered; default: the embedded generators that are here."""
    return Workshop(models or Models(embedded_offers()), JobStore(settings.folder / "jobs"), make_scorers)


def application(settings: Settings, shop: Workshop, jobs: Jobs) -> Any:
    """The app behind its door, as ASGI. The queue is started and stopped by the caller."""
    need_gradio()
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["GRADIO_TEMP_DIR"] = str(settings.folder / "uploads")  # read when gradio keeps its first file
    import gradio as gr

    from unified.app import catalog_page, compare_page, downloads, edit_page, explore_page
    from unified.app.site import Site

    site = Site(shop, jobs, settings.bounds)
    with gr.Blocks(title="unified", analytics_enabled=False, delete_cache=(3600, 24 * 3600), fill_width=True) as demo:
        gr.Navbar(main_page_name="Compare")
        compare_page.build(site, demo)
    for name, page in (("Edit", edit_page), ("Explore", explore_page), ("Catalog", catalog_page)):
        with demo.route(name, f"/{name.lower()}"):
            gr.Navbar(main_page_name="Compare")
            page.build(site, demo)
    demo.queue(max_size=200, default_concurrency_limit=8)

    api = downloads.application(jobs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SSR mode")  # not asked for, yet it is warned of
        gr.mount_gradio_app(
            api,
            demo,
            path="",
            server_name=settings.host,
            server_port=settings.port,
            footer_links=[],
            max_file_size=settings.bounds.bytes,
            show_error=False,
            ssr_mode=False,
            enable_monitoring=False,
            css=html.css(),
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        )
    return Door(api, most_bytes=settings.request_bytes, hosts=_own_names(settings.host))


def _own_names(host: str) -> list[str]:
    """Names that requests may come by: those of this machine if only it can reach the app, else any."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return ["127.0.0.1", "localhost", "::1", host] if loopback else []


@contextlib.contextmanager
def open_jobs(settings: Settings, shop: Workshop) -> Iterator[Jobs]:
    """The queue of this server, with what an earlier one left; kept safe when it ends."""
    holder = OneServer(settings.folder)
    jobs = Jobs(shop.store, shop.works(), settings.limits)
    try:
        jobs.start()
        yield jobs
    finally:
        jobs.stop()
        holder.release()


def serve(settings: Settings, shop: Workshop, *, ready: Callable[[str], None] = lambda address: None) -> None:
    """Run until interrupted. ready: told the address when the app answers. Raises UserError if the port is taken."""
    need_gradio()
    import uvicorn

    with contextlib.closing(_bound(settings)) as listening, open_jobs(settings, shop) as jobs:
        host, port = listening.getsockname()[:2]
        app = application(settings, shop, jobs)
        shown = f"[{host}]" if ":" in host else host
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, lifespan="on")
        ready(f"http://{shown}:{port}")
        with contextlib.suppress(KeyboardInterrupt):  # raised once more when the server has shut down
            uvicorn.Server(config).run(sockets=[listening])


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UserError(
            f"{settings.host} port {settings.port} cannot be used ({error.strerror}): choose another with --port."
        ) from error
    return listening
