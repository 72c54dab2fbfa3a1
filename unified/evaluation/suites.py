"""Suites: tables of a survey that one command measures again, on embedded models and avatarbench.

A suite is data: which model, which edits, and what was published of which recipe. Packages register theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unified.contract.registry import Registry


@dataclass(frozen=True)
class Published:
    """A row of a published table; None where it says nothing.

    method: its name there. psnr: dB. lpips, identity: as defined there. seconds: for one picture, on a GPU.
    """

    method: str
    psnr: float | None = None
    lpips: float | None = None
    identity: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Suite:
    """Recipes on one model, beside published figures of the same methods on other data and another generator.

    model: whose recipes are measured, all that run on it and give their pictures back. published: by recipe; of
    these the order is compared, not the values. source: where they are from and what they were measured on.
    edits: ATTRIBUTE[=VALUE]s that editability is measured with; directions: the methods that those edits are by.
    """

    name: str
    model: str
    published: Mapping[str, Published]
    source: str
    edits: tuple[str, ...]
    directions: tuple[str, ...]


suites: Registry[Suite] = Registry("suite")
