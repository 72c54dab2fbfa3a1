"""Settings of schemes, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from unified.contract.scheme import Scheme, scheme_settings, with_settings
from unified.errors import UserError


@dataclass(frozen=True)
class Inner:
    steps: int = 3
    rate: float = 0.1


@dataclass(frozen=True)
class Example(Scheme):
    name: ClassVar[str] = "example"

    inner: Inner = field(default_factory=Inner)
    strength: float = 1.0
    per_layer: bool = False
    judge: type = int

    def generate(self, backbone, concepts, target, *, rng, progress):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def test_settings_reach_into_parts() -> None:
    start = Example()
    changed = with_settings(start, {"inner.steps": 7, "strength": 2, "per_layer": True})
    assert changed == Example(Inner(7), 2.0, True) and isinstance(changed.strength, float)  # type: ignore[attr-defined]
    assert start == Example() and with_settings(start, {}) is start
    assert scheme_settings(start) == {"inner.steps": 3, "inner.rate": 0.1, "strength": 1.0, "per_layer": False}


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"speed": 1}, "no setting 'speed'; it has: inner.steps, inner.rate, strength, per_layer"),
        ({"inner": 1}, "no setting 'inner'"),
        ({"strength.more": 1}, "no setting"),
        ({"judge": "x"}, "no setting"),
        ({"inner.steps": 1.5}, "must be like 3"),
        ({"inner.steps": True}, "must be like 3"),
        ({"strength": "much"}, "must be like 1.0"),
    ],
)
def test_what_is_no_setting(settings: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        with_settings(Example(), settings)
