"""`unified app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified.cli.options import console, remarks


def app(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 the whole network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 7860,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="A checkpoint to offer beside the embedded models.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where jobs, uploads and results are kept. Default: in the cache folder.")
    ] = None,
) -> None:
    """Open the web app: compare, edit and explore in a browser.

    Jobs are kept in a folder: stop the app at any time, and it goes on where it was when it is started again.

    Example: unified app --port 8000
    """
    from unified.app.server import Settings, default_folder, need_gradio, serve, workshop

    need_gradio()
    remarks.print("Getting ready ...")
    settings = Settings((folder or default_folder()).expanduser().resolve(), host=host, port=port)
    shop = workshop(settings)
    for name in model or ():
        shop.models.add(name)
    if not shop.models.offers:
        remarks.print("No model has its weights here: build one with `unified zoo build NAME`, or give --model.")
    serve(settings, shop, ready=lambda address: console.print(f"The app is at {address} (Ctrl-C stops it)"))
