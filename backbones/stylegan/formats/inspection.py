"""What is in a checkpoint file, found without loading it: names, architectures, numbers of parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbones.stylegan.config import infer_discriminator, infer_generator
from backbones.stylegan.formats import official, rosinality, tensorflow
from backbones.stylegan.formats.allowed import ALLOWED
from backbones.stylegan.formats.encoders import parts_of
from backbones.stylegan.formats.errors import UnsafeFileError, describing
from backbones.stylegan.formats.recognition import Format, classify
from backbones.stylegan.formats.restricted import Stub, container_of, read_content, tensors_of
from backbones.stylegan.formats.scan import Scan, looks_like_pickle
from backbones.stylegan.formats.source import Source
from backbones.stylegan.formats.tensors import FORMAT
from backbones.stylegan.formats.zip_files import Archive
from backbones.stylegan.stylegan3.config import infer_alias_free
from unified.errors import UserError

_MOST_NAMES = 1000


@dataclass(frozen=True)
class AskedName:
    """A global that a pickle asks for. `name` is text of the file: print it with :func:`printable`."""

    name: str
    allowed: bool
    times: int


@dataclass(frozen=True)
class NetworkSummary:
    """kind: such as "StyleGAN2 generator", or "tensors" if it is not recognised. configuration: its architecture, {}
    if not recognised. parameters: the number of values in all tensors, buffers included."""

    name: str
    kind: str
    configuration: dict[str, Any]
    tensors: int
    parameters: int


@dataclass(frozen=True)
class Inspection:
    """names: all that its pickles ask for, also nested ones; () for safetensors. notes: what is wrong with it."""

    path: Path
    format: str
    bytes: int
    networks: tuple[NetworkSummary, ...]
    names: tuple[AskedName, ...]
    notes: tuple[str, ...]

    @property
    def safe(self) -> bool:
        """Whether every name is on the allow list. A damaged file may hide names behind the damage."""
        return all(name.allowed for name in self.names)

    def __str__(self) -> str:
        lines = [f"{self.path}", f"format: {self.format}, {self.bytes / 2**20:.1f} MiB"]
        for network in self.networks:
            lines.append(
                f"{printable(network.name)}: {network.kind}, {network.parameters:,} values in {network.tensors} tensors"
            )
            lines += [f"    {key}: {_short(value)}" for key, value in network.configuration.items()]
        if self.names:
            lines.append(f"names that its pickles ask for ({sum(not n.allowed for n in self.names)} not allowed):")
            for name in sorted(self.names, key=lambda n: (n.allowed, n.name)):
                lines.append(f"    {'allowed' if name.allowed else 'REFUSED'}  {printable(name.name)}  x {name.times}")
        lines += [f"note: {printable(note, longest=600)}" for note in self.notes]
        return "\n".join(lines)


def printable(text: str, *, longest: int = 200) -> str:
    """Text of a file without control characters, which could drive a terminal."""
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:longest])
    return shown + ("..." if len(text) > longest else "")


def can_inspect(path: Path) -> bool:
    """Whether the file is a pickle, a zip or legacy file of torch.save, or safetensors, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(64)
    return container_of(start) is not None or looks_like_safetensors(start) or looks_like_pickle(start[:2])


def inspect(path: str | Path) -> Inspection:
    """Look into a .pkl, .pt or safetensors file. Nothing of it is run, and no tensor is read.

    Hostile and damaged files are described, not refused: what could be found out, and a note on what is wrong.
    Raises UserError if the file cannot be read or is of another kind.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
            container = container_of(start)
            scan = Scan()
            notes = [] if container is None else _walk(Source(file), container, scan)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from None
    if container is None:
        if looks_like_safetensors(start):
            return _inspect_safetensors(path, size)
        if not looks_like_pickle(start[:2]):
            raise UserError(f"{path} is neither a pickle, nor a file of torch.save, nor safetensors.")
        with path.open("rb") as file:
            notes = _scan(Source(file), scan, ["it is a pickle of an old protocol, which no checkpoint uses"])
    names = tuple(AskedName(name, name in ALLOWED, times) for name, times in scan.names.most_common(_MOST_NAMES))
    kind: Format | None = None if container is None else classify(scan, container)
    networks: tuple[NetworkSummary, ...] = ()
    if container is None or not all(name.allowed for name in names):
        notes.append("the architecture was not read, since the file would be refused")
    else:
        try:
            content = read_content(path, shapes=True)
            with describing(path):
                networks = summaries(content)
        except UserError as error:
            notes.append(str(error))
    return Inspection(path, f"{kind or 'pickle'} ({container or 'old protocol'})", size, networks, names, tuple(notes))


def _walk(source: Source, container: str, scan: Scan) -> list[str]:
    notes: list[str] = []
    try:
        if container == "zip torch.save":
            source = Source(Archive(source).read("data.pkl"))
        elif container == "legacy torch.save":
            for _ in range(5):  # magic number, protocol, machine, object, keys
                scan.stream(source, nested=True)
            return notes
    except UnsafeFileError as error:
        return [str(error)]
    return _scan(source, scan, notes)


def _scan(source: Source, scan: Scan, notes: list[str]) -> list[str]:
    try:
        scan.stream(source, nested=True)
    except Exception as error:  # whatever a malformed stream provokes; it is described, not loaded
        reason = str(error) if isinstance(error, UnsafeFileError) else type(error).__name__
        notes.append(f"the pickle cannot be followed to its end, so names may be missing: {reason}")
    return notes


def summaries(content: Any) -> tuple[NetworkSummary, ...]:
    """The networks in what a file holds."""
    if isinstance(content, tuple) or tensorflow.networks_of((content,)):
        stubs = tensorflow.networks_of(content if isinstance(content, tuple) else (content,))
        return tuple(_tensorflow(name, stub) for name, stub in stubs.items())
    if isinstance(content, Stub):
        content = {"G": content}
    if not isinstance(content, dict):
        return ()
    found: list[NetworkSummary] = []
    for name, value in content.items():
        if type(name) is not str:
            continue
        if isinstance(value, Stub) and value.class_name != "Namespace":
            stored = official.official_networks({name: value}, name)[name]
            found.append(summary(name, stored.tensors))
        elif name == "state_dict":
            parts = parts_of(tensors_of(value))
            found += [summary(part, tensors) for part, tensors in parts.items()]
        elif tensors_of(value):
            found.append(summary(name, tensors_of(value), rosinality.own_tensors(content, name)))
    loose = tensors_of(content)
    if len(loose) > 1:
        found.append(summary("tensors", loose))
    return tuple(found)


def _tensorflow(name: str, stub: Stub) -> NetworkSummary:
    try:
        convert = tensorflow.discriminator_tensors if name == "D" else tensorflow.generator_tensors
        return summary(name, convert(stub))
    except UnsafeFileError:
        raise
    except UserError:  # a StyleGAN1
        return summary(name, tensorflow.variables(stub))


def summary(name: str, tensors: Mapping[str, Tensor], rest: Mapping[str, Tensor] | None = None) -> NetworkSummary:
    """Recognise tensors by their names, official or rosinality's. rest: more of them, by official names."""
    rest = rest or {}
    values = sum(tensor.numel() for tensor in (*tensors.values(), *rest.values()))
    kind, configuration = "tensors", {}
    rules: list[tuple[str, Any]] = [
        ("StyleGAN2 generator", lambda: infer_generator(tensors)),
        ("StyleGAN2 discriminator", lambda: infer_discriminator(tensors)),
    ]
    if "input.input" in tensors:
        rules = [
            ("StyleGAN2 generator", lambda: infer_generator({**rosinality.generator_to_official(tensors), **rest}))
        ]
    elif "final_conv.0.weight" in tensors:
        rules = [
            (
                "StyleGAN2 discriminator",
                lambda: infer_discriminator({**rosinality.discriminator_to_official(tensors), **rest}),
            )
        ]
    elif "synthesis.input.freqs" in tensors:
        rules = [("StyleGAN3 generator", lambda: infer_alias_free(tensors))]
    for title, infer in rules:
        try:
            configuration = _told_by_shapes(infer().to_dict())
            kind = title
            break
        except UserError:
            continue
    return NetworkSummary(name, kind, configuration, len(tensors) + len(rest), values)


def _told_by_shapes(configuration: dict[str, Any]) -> dict[str, Any]:
    """Without what no shape tells, so that defaults are not shown as facts of the file."""
    hidden = {
        "conv_clamp",
        "learning_rate_multiplier",
        "group_size",
        "critical_layers",
        "first_cutoff",
        "first_stopband",
    }
    hidden |= {"last_stopband_ratio", "margin", "filter_size", "upsampling", "output_scale"}
    return {key: value for key, value in configuration.items() if key not in hidden and value is not None}


def looks_like_safetensors(start: bytes) -> bool:
    return len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**27


def _inspect_safetensors(path: Path, size: int) -> Inspection:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            counts = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        return Inspection(path, "safetensors", size, (), (), (f"it is damaged: {error}",))
    found = []
    for prefix in sorted({name.partition(".")[0] for name in counts}):
        own = [count for name, count in counts.items() if name.partition(".")[0] == prefix]
        found.append(NetworkSummary(prefix, _kind(metadata, prefix), _json(metadata.get(prefix)), len(own), sum(own)))
    return Inspection(path, f"safetensors ({metadata.get('format', 'of no kind given')})", size, tuple(found), (), ())


def _kind(metadata: Mapping[str, str], prefix: str) -> str:
    if metadata.get("format") != FORMAT or prefix not in ("generator", "discriminator"):
        return "tensors"
    return f"{'StyleGAN3' if 'radial_filters' in _json(metadata.get(prefix)) else 'StyleGAN2'} {prefix}"


def _json(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _short(value: Any) -> str:
    return printable(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
