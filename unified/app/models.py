"""The models that the app offers, what they can do, and those that are loaded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from unified.comparison.run import CATEGORY
from unified.contract.abilities import Reads, can, lacked
from unified.contract.backbone import Backbone, backbones
from unified.contract.recipe import recipes, runnable
from unified.contract.scheme import schemes
from unified.errors import UserError
from unified.loading import load
from unified.zoo.registry import zoo

Load = Callable[[str], Backbone]


@dataclass(frozen=True)
class Offer:
    """A model to choose: its name, its class (what it can do, known without its weights), and class word."""

    name: str
    backbone: type[Backbone]
    category: str = ""


def embedded_offers() -> list[Offer]:
    """The embedded generators whose weights are here."""
    return [
        Offer(name, backbones.get(model.backbone), model.category)
        for name, model in zoo
        if model.load and model.backbone and model.present
    ]


class Models:
    """The offers, and at most `keep` loaded backbones: the one used longest ago is given up for another."""

    def __init__(self, offers: Iterable[Offer], *, load: Load = load, keep: int = 4) -> None:
        self.offers = {offer.name: offer for offer in offers}
        self._load = load
        self._keep = keep
        self._loaded: OrderedDict[str, Backbone] = OrderedDict()
        self._lock = threading.Lock()

    def offer(self, name: str) -> Offer:
        if name not in self.offers:
            raise UserError(f"There is no model {name!r} here; there are {', '.join(self.offers) or 'none'}.")
        return self.offers[name]

    def get(self, name: str) -> Backbone:
        """The backbone, loaded once; frozen and shared, so that two threads may use it together."""
        offer = self.offer(name)
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= self._keep:
                    self._loaded.popitem(last=False)
                self._loaded[name] = self._load(offer.name)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def add(self, name: str) -> None:
        """Offer a checkpoint by path or hub id; it is loaded, since only then it is known what it is."""
        backbone = self._load(name)
        self.offers[name] = Offer(name, type(backbone), backbone.category)
        self._loaded[name] = backbone

    def able(self, *protocols: type) -> list[str]:
        """The models that have all of these protocols."""
        return [name for name, offer in self.offers.items() if not lacked(offer.backbone, protocols)]

    def recipes(self, name: str) -> list[str]:
        """Recipes that run on it, its default first, without those that need what the app does not ask for."""
        default = self.offer(name).backbone.default_recipe
        found = [r for r in runnable(self.offer(name).backbone) if recipes.get(r).requires <= {"category"}]
        return sorted(found, key=lambda recipe: (recipe != default, recipe))

    def runs(self) -> list[str]:
        """Everything that can be compared, as "model:recipe", and each model's baseline."""
        found = []
        for name, offer in self.offers.items():
            found += [f"{name}:{recipe}" for recipe in self.recipes(name)]
            if can(offer.backbone, Reads):
                found.append(f"{name}:{CATEGORY}")
        return found

    def default_runs(self) -> list[str]:
        """The default recipe of one model per family."""
        first: dict[str, str] = {}
        for name, offer in self.offers.items():
            first.setdefault(offer.backbone.label, name)
        return [f"{name}:{self.offers[name].backbone.default_recipe}" for name in first.values()]

    def asks(self, name: str) -> frozenset[str]:
        """What pictures of this model can be asked for beside the concept: of 'prompt', 'edits'."""
        cls = self.offer(name).backbone
        usable = [scheme for _, scheme in schemes if not lacked(cls, scheme.needs)]
        return frozenset().union(*(scheme.reads for scheme in usable))
