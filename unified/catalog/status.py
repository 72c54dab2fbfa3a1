"""What of the survey runs here: derived from the registries, never written down."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unified.catalog.entries import Entry, Status, links, terms
from unified.contract.backbone import Backbone, backbones
from unified.contract.method import methods
from unified.contract.recipe import Stage, recipes, refusal
from unified.contract.registry import Registry
from unified.contract.scheme import schemes
from unified.contract.space import parse_spaces, spaces
from unified.directions_hook import direction_finders
from unified.merging import merges
from unified.zoo.registry import zoo


@dataclass(frozen=True)
class Listed:
    """An entry with its status. commands: what runs it, with a note where that differs from the paper."""

    entry: Entry
    status: Status
    commands: tuple[str, ...] = ()


def registries() -> Mapping[str, Registry]:
    """The registries that links.tsv may name, by its first column."""
    return {
        "recipe": recipes,
        "scheme": schemes,
        "directions": direction_finders,
        "space": spaces,
        "backbone": backbones,
        "merge": merges,
    }


def listed(entry: Entry) -> Listed:
    """The entry with what is derived about it."""
    found = [link for link in links() if entry.id in link.entries and link.name in registries()[link.registry]]
    if found:
        commands = tuple(_with_note(_COMMANDS[link.registry](link.name, entry.family), link.note) for link in found)
        return Listed(entry, Status.RUNS, commands)
    expressed = expressed_by(entry)
    if expressed is None:
        return Listed(entry, Status.NOT_YET)
    return Listed(entry, Status.EXPRESSIBLE, expressed.commands(entry.family))


def missing_rows() -> list[str]:
    """One line for each registered recipe, scheme, finder or way of merging that links.tsv does not mention."""
    known = {(link.registry, link.name) for link in links()}
    return [
        f"links.tsv says nothing about the {sort} {name!r}: add a row '{sort}<TAB>{name}<TAB>ID<TAB>' with the id of"
        f" its method in survey.tsv, or '{sort}<TAB>{name}<TAB>-<TAB>where it is from' if the survey has none"
        for sort in ("recipe", "scheme", "directions", "merge")
        for name in registries()[sort].names()
        if (sort, name) not in known
    ]


def dangling_rows(known_entries: frozenset[str]) -> list[str]:
    """One line for each row of links.tsv or terms.tsv that names what does not exist."""
    wrong = [
        f"links.tsv names the {link.registry} {link.name!r}, which is not registered: correct or remove that row"
        for link in links()
        if link.name not in registries()[link.registry]
    ]
    wrong += [
        f"links.tsv says that the {link.registry} {link.name!r} is {id!r}, which survey.tsv does not have"
        for link in links()
        for id in link.entries
        if id not in known_entries
    ]
    by_column: dict[str, Registry] = {"space": spaces, "method": methods}
    wrong += [
        f"terms.tsv says that {term.term!r} is the {term.column} {name!r}, which is not registered"
        for term in terms()
        for name in itertools.chain.from_iterable(term.names)
        if name not in by_column[term.column]
    ]
    return wrong


@dataclass(frozen=True)
class Expressed:
    """Registered names that express an entry: spaces filled together, by one method after the other."""

    spaces: tuple[str, ...]
    methods: tuple[str, ...]

    def commands(self, family: str) -> tuple[str, ...]:
        """What runs it; () for several methods, which the command line cannot mix."""
        if len(self.methods) > 1:
            return ()
        by = "" if self.methods == ("optimize",) else f" --method {self.methods[0]}"
        text = " & ".join(self.spaces)
        stages = _stages(self.spaces, self.methods)
        return (f"{_invert(_model(family, lambda cls: refusal(cls, stages) is None))} --space '{text}'{by}",)


def expressed_by(entry: Entry) -> Expressed | None:
    """What fills the entry's spaces by its kind of method on a backbone of its family, or None.

    No weights are loaded: the contract is asked whether it would refuse.
    """
    if entry.kind != "method":
        return None
    for names in _space_names(entry):
        for by in _names("method", entry.family, entry.method):
            stages = _stages(names, by)
            if any(refusal(cls, stages) is None for _, cls in backbones if cls.label == entry.family):
                return Expressed(names, by)
    return None


def _stages(space_names: Sequence[str], method_names: Sequence[str]) -> list[Stage]:
    """The spaces filled by each method in turn, all with their default settings."""
    return [Stage(parse_spaces(" & ".join(space_names)), methods.get(name)()) for name in method_names]


def _space_names(entry: Entry) -> Iterator[tuple[str, ...]]:
    for together in entry.spaces:
        choices = [[name for (name,) in _names("space", entry.family, term)] for term in together]
        yield from itertools.product(*choices)


@functools.cache
def _names(column: str, family: str, term: str) -> tuple[tuple[str, ...], ...]:
    """The registered names a word stands for, each a sequence of stages; words unknown to terms.tsv have none."""
    registry: Registry = spaces if column == "space" else methods
    return tuple(
        names
        for each in terms()
        if each.column == column and each.term == term and each.family in ("", family)
        for names in each.names
        if all(name in registry for name in names)
    )


def _with_note(command: str, note: str) -> str:
    return f"{command}  ({note})" if note else command


def _invert(model: str) -> str:
    return f"unified invert PICTURES --model {model} --output me.safetensors"


def _model(family: str, takes: Callable[[type[Backbone]], bool]) -> str:
    """An embedded model of the family that takes it, else the name of a backbone in capitals: a checkpoint of one."""
    able = [name for name, cls in backbones if cls.label == family and takes(cls)]
    embedded = [name for name, model in zoo if model.load and model.backbone in able]
    return next(iter(embedded), able[0].upper() if able else "MODEL")


def _recipe_command(name: str, family: str) -> str:
    stages = recipes.get(name).stages
    return f"{_invert(_model(family, lambda cls: refusal(cls, stages) is None))} --recipe {name}"


#: How each part of a target is asked for on the command line.
_OPTIONS = {
    "prompt": "--prompt PROMPT",
    "source": "--source SOURCE",
    "edits": "--set NAME=STRENGTH",
    "drags": "--drag X,Y:X,Y",
    "pictures": "--picture PICTURE",
}


def _scheme_command(name: str, family: str) -> str:
    asked = " ".join(option for part, option in _OPTIONS.items() if part in schemes.get(name).reads)
    return f"unified edit me.safetensors --scheme {name} {asked}".rstrip()


def _directions_command(name: str, family: str) -> str:
    return f"unified edit --model {_model(family, lambda cls: True)} --find {name} --list"


def _space_command(name: str, family: str) -> str:
    for method in ("optimize", *methods.names()):
        found = Expressed((name,), (method,))
        stages = _stages(found.spaces, found.methods)
        if any(refusal(cls, stages) is None for _, cls in backbones if cls.label == family):
            return found.commands(family)[0]
    # A space that only a later stage can fill: a code of another space must be bound before.
    return f"{_invert(_model(family, lambda cls: True))} --space '... > {name}'"


def _backbone_command(name: str, family: str) -> str:
    cls = backbones.get(name)
    return _invert(_model(family, lambda other: other is cls))


def _merge_command(name: str, family: str) -> str:
    return f"unified merge ONE.safetensors OTHER.safetensors --by {name} -o BOTH.safetensors"


_COMMANDS: Mapping[str, Callable[[str, str], str]] = {
    "recipe": _recipe_command,
    "scheme": _scheme_command,
    "directions": _directions_command,
    "space": _space_command,
    "backbone": _backbone_command,
    "merge": _merge_command,
}
