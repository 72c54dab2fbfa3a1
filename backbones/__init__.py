"""The generators: one package per family."""

# First of all imports: it lets torchvision load beside any torch (see unified/__init__.py).
import unified  # noqa: F401
