"""Tiny random models for the tests."""

import unified  # noqa: F401  (repairs a broken torchvision before diffusers or transformers import it)
