"""What tests and measurements in a real browser share. Needs playwright where it is used, not to be imported."""

from __future__ import annotations

import os
import shutil
from typing import Any

#: The browser: UNIFIED_CHROMIUM, or one that the system knows; "" if there is none.
CHROMIUM = os.environ.get("UNIFIED_CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def choose(page: Any, id: str, text: str) -> None:
    """Pick an entry of a drop-down list."""
    page.locator(f"#{id} input").click()
    page.get_by_role("option", name=text, exact=True).click()


def done(page: Any, where: str) -> None:
    """Wait until the job that `where` tells of is done."""
    page.locator(f"#{where} .app-status.done").wait_for()
