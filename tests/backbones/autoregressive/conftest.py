"""Imported before the test modules: `unified` lets torchvision load beside any torch."""

import unified  # noqa: F401
