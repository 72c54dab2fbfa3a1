"""Methods that make a direction from words when an edit asks for one ("styleclip:a person with glasses")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from editing.directions import Direction
from editing.paths import Path
from unified.contract.backbone import Backbone
from unified.contract.registry import Registry


class TextMethod(Protocol):
    """Makes directions of a backbone from words. strength: that such an edit is recommended with."""

    @property
    def strength(self) -> float: ...

    def maker(self, backbone: Backbone) -> Callable[[str], Direction | Path] | None:
        """What makes them, or None if what it needs was not prepared for this backbone."""
        ...

    def about(self, backbone: Backbone) -> str:
        """One line for listings: what was prepared, by what, on which data."""
        ...


text_methods: Registry[TextMethod] = Registry("text method")


def by_text(backbone: Backbone) -> dict[str, Callable[[str], Direction | Path]]:
    """Method -> what makes a direction of the backbone from words, for those that can."""
    makers = ((name, method.maker(backbone)) for name, method in text_methods)
    return {name: maker for name, maker in makers if maker is not None}
