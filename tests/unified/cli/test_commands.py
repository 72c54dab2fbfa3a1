"""The commands on a tiny model in a file, and what they say to bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backbones.stylegan.formats.tensors import save_networks
from inversion.methods.optimize import Optimize
from tests.tiny import gan
from unified.cli import main
from unified.contract.concept import Concept
from unified.images import read_images, save_images


class Outcome:
    """Exit code and what was written to the two streams."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Command = Callable[..., Outcome]


@pytest.fixture
def unified_(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: Any) -> Outcome:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return Outcome(int(end.value.code or 0), streams.out, streams.err)

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two generators of other weights."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for seed in (0, 1):
        backbone = gan.stylegan(seed=seed)
        path = folder / f"gan-{seed}.safetensors"
        save_networks(path, backbone.generator)
        paths.append(path)
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_images(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), folder)
    return folder


@pytest.fixture(scope="module")
def concept(models: tuple[Path, Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("concept") / "me.safetensors"
    with pytest.raises(SystemExit):
        main(["invert", str(pictures), "-m", str(models[0]), "--space", "w+", "--steps", "2", "-o", str(path)])
    return path


def refused(outcome: Outcome, *words: str) -> None:
    """One sentence on standard error, exit code 2, nothing on standard output."""
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("Error: ") and len(outcome.err.strip().splitlines()) == 1, outcome.err
    assert "Traceback" not in outcome.err and not outcome.out
    for word in words:
        assert word in outcome.err


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_invert_then_generate(unified_: Command, models: tuple[Path, Path], pictures: Path, tmp_path: Path) -> None:
    me = tmp_path / "me"
    done = unified_("invert", pictures, "-m", models[0], "--recipe", "pti", "--steps", "2,3", "-o", me)
    assert done.code == 0 and done.out.strip() == f"{me}.safetensors"
    assert "stage 2: weights" in done.err
    assert files(tmp_path) == [tmp_path / "me.safetensors"]
    loaded = Concept.load(tmp_path / "me.safetensors")
    assert [stage["steps"] for stage in loaded.meta["stages"]] == [2, 3]
    assert loaded.pictures == 2

    sheet = tmp_path / "sheet.png"
    assert unified_("generate", f"{me}.safetensors", "-o", sheet).code == 0
    assert read_images(sheet).shape == (1, 3, 32, 66)  # two side by side, two pixels apart
    assert unified_("generate", f"{me}.safetensors", "-o", tmp_path / "each").code == 0
    assert [path.name for path in files(tmp_path / "each")] == ["image-000.png", "image-001.png"]


def test_a_person_of_the_benchmark_can_be_inverted(
    unified_: Command, models: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "person.safetensors"
    done = unified_("invert", "avatarbench/person-03", "-m", models[0], "--space", "w", "--steps", 1, "-o", path)
    assert done.code == 0, done.err
    assert Concept.load(path).pictures == 5 and Concept.load(path).category == "person"


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "P", "exif"])
def test_other_sorts_of_pictures_are_converted(
    unified_: Command, models: tuple[Path, Path], tmp_path: Path, mode: str
) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    if mode == "exif":
        path = tmp_path / "a.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        Image.new("RGB", (48, 32), "red").save(path, exif=exif)
    else:
        Image.new(mode, (48, 32), 7).save(path)
    done = unified_("invert", path, "-m", models[0], "--space", "w", "--steps", 1, "-o", tmp_path / "me")
    assert done.code == 0, done.err


def bad_picture(kind: str, folder: Path) -> Path:
    path = folder / "bad.png"
    if kind == "text":
        path.write_text("no picture")
    elif kind == "truncated":
        Image.effect_noise((64, 64), 90).save(path)
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "tiny":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "huge":
        Image.new("1", (20000, 20000)).save(path)
    elif kind == "empty folder":
        path = folder / "empty"
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("absent", "no file"),
        ("text", "not a picture"),
        ("truncated", "truncated"),
        ("tiny", "1x1"),
        ("huge", "too large"),
        ("empty folder", "holds no picture"),
    ],
)
@pytest.mark.parametrize("command", ["invert", "compare"])
def test_pictures_that_cannot_be_read(
    unified_: Command, models: tuple[Path, Path], tmp_path: Path, kind: str, word: str, command: str
) -> None:
    picture = bad_picture(kind, tmp_path)
    output = tmp_path / "out" / "me"
    if command == "invert":
        done = unified_("invert", picture, "-m", models[0], "-o", output)
    else:
        done = unified_("compare", picture, "--runs", f"{models[0]}:pti", "-o", output)
    refused(done, word)
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--recipe", "ptti"), ("no recipe", "nearest", "pti")),
        (("--recipe", "textual-inversion"), ("does not run", "reads prompts", "projector")),
        (("--space", "w++"), ("no space", "w+")),
        (("--space", "weights"), ("nothing to explain the pictures with",)),
        (("--recipe", "pti", "--space", "w"), ("give one or the other",)),
        (("--recipe", "pti", "--steps", "1,2,3"), ("2", "stages")),
        (("--steps", "many"), ("--steps",)),
        (("--caption", "one"), ("captions", "2 pictures")),
    ],
)
def test_inversions_that_make_no_sense(
    unified_: Command,
    models: tuple[Path, Path],
    pictures: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    output = tmp_path / "out" / "me"
    refused(unified_("invert", pictures, "-m", models[0], "-o", output, *arguments), *words)
    assert not output.parent.exists()


def test_models_that_are_not_there(unified_: Command, pictures: Path, tmp_path: Path) -> None:
    refused(unified_("invert", pictures, "-m", tmp_path / "no.pkl", "-o", tmp_path / "me"), "no.pkl", "avatars/")
    refused(unified_("invert", pictures, "-m", "avatars/clip", "-o", tmp_path / "me"), "no generator")
    nonsense = tmp_path / "nonsense.bin"
    nonsense.write_bytes(b"nonsense")
    refused(unified_("invert", pictures, "-m", nonsense, "-o", tmp_path / "me"), "no known checkpoint format")


def test_concepts_that_cannot_be_used(
    unified_: Command, models: tuple[Path, Path], concept: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "a.png"
    refused(unified_("generate", concept, "-m", models[1], "-o", output), "weights", "invert again")
    refused(unified_("generate", concept, "--prompt", "a portrait", "-o", output), "<me>")
    refused(unified_("generate", tmp_path / "no.safetensors", "-o", output), "no concept file")

    whole = concept.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        refused(unified_("generate", cut, "-o", output), "cut.safetensors")
    with safe_open(concept, framework="pt") as file:
        metadata = file.metadata()
    edited = tmp_path / "edited.safetensors"
    text = json.dumps({**json.loads(metadata["unified"]), "name": "<you>"})
    save_file(load_file(concept), edited, metadata={**metadata, "unified": text})
    refused(unified_("generate", edited, "-o", output), "altered")
    save_file({"a": torch.zeros(1)}, edited)
    refused(unified_("generate", edited, "-o", output), "no concept")
    assert not output.parent.exists()


def test_edits_that_make_no_sense(unified_: Command, concept: Path, tmp_path: Path) -> None:
    refused(unified_("edit", concept, "-o", tmp_path / "a.png"), "no edit")
    refused(unified_("edit", concept, "--set", "smile", "-o", tmp_path / "a.png"), "--set")
    refused(unified_("generate", concept, "-o", tmp_path / "a.psd"), "suffix")
    refused(unified_("generate", concept, "--sampling", "magic=3", "-o", tmp_path / "a.png"), "magic")
    assert files(tmp_path) == []


@pytest.mark.parametrize(("number", "word"), [(28, "disk is full"), (30, "read-only"), (13, "read-only")])
@pytest.mark.parametrize("command", ["invert", "generate", "compare"])
def test_a_disk_that_takes_nothing(
    unified_: Command,
    models: tuple[Path, Path],
    pictures: Path,
    concept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    word: str,
    command: str,
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, "cannot be written")

    # Folders that may not be written to say so at the first byte, full disks at the latest when it is flushed.
    monkeypatch.setattr("unified.files.os.fsync", fail)
    output = tmp_path / "out"
    arguments = {
        "invert": ("invert", pictures, "-m", models[0], "--space", "w", "--steps", 1, "-o", output / "me"),
        "generate": ("generate", concept, "-o", output / "a.png"),
        "compare": ("compare", pictures, "-r", f"{models[0]}:projector", "--steps", 1, "-o", output),
    }[command]
    refused(unified_(*arguments), word)
    assert files(tmp_path) == []


def test_an_interrupted_inversion_keeps_what_it_reached_and_goes_on(
    unified_: Command,
    models: tuple[Path, Path],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("invert", pictures, "-m", models[0], "--space", "w+", "--steps", 6)
    assert unified_(*arguments, "-o", tmp_path / "unbroken").code == 0

    step = next(value for name, value in vars(_run_class()).items() if name == "_step")
    taken: list[int] = []

    def interrupted(self: Any, at: Any) -> Any:
        taken.append(at.number)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(self, at)

    monkeypatch.setattr(_run_class(), "_step", interrupted)
    done = unified_(*arguments, "-o", tmp_path / "me")
    assert done.code == 130 and "--resume" in done.err and "step 3 of 6" in done.err
    assert Concept.load(tmp_path / "me.safetensors").meta["stages"][0]["interrupted"]
    done = unified_(*arguments, "-o", tmp_path / "me", "--resume")
    assert done.code == 0 and taken[4:] == [3, 4, 5]
    ours, whole = (Concept.load(tmp_path / f"{name}.safetensors") for name in ("me", "unbroken"))
    assert torch.equal(ours.codes[0].tensors["w"], whole.codes[0].tensors["w"])
    assert files(tmp_path) == [tmp_path / "me.safetensors", tmp_path / "unbroken.safetensors"]


def _run_class() -> type:
    import inversion.methods.optimize as module

    assert Optimize is module.Optimize
    return module._Run


def test_compare_writes_a_report_and_says_where(
    unified_: Command, models: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    runs = f"{models[0]}:projector,{models[0]}:category"
    arguments = ("compare", pictures, "-r", runs, "-p", "a portrait of <me>", "--category", "person", "--steps", 1)
    done = unified_(*arguments, "-o", tmp_path / "report")
    assert done.code == 0, done.err
    assert str(tmp_path / "report" / "report.html") in done.out
    found = {path.name for path in files(tmp_path / "report")}
    assert {"report.html", "grid.png", "scores.csv", "runs.csv", "comparison.json"} <= found
    again = unified_(*arguments, "-o", tmp_path / "report")
    assert again.code == 0 and "inverting" not in again.err


def test_a_broken_picture_in_the_middle_is_named_and_left_out_if_asked(
    unified_: Command, models: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    save_images(torch.rand(3, 3, 20, 20), folder)
    (folder / "image-001.png").write_bytes(b"%PDF-1.7" + bytes(99))
    arguments = ("compare", folder, "-r", f"{models[0]}:projector", "-p", "a portrait of <me>", "--category", "person")
    output = ("--steps", 1, "-o", tmp_path / "report")
    refused(unified_(*arguments, *output), "image-001.png")
    done = unified_(*arguments, "--skip-broken", *output)
    assert done.code == 0, done.err
    assert "Left out" in done.err and "image-001.png" in done.err and "image-000.png" not in done.err
    assert (tmp_path / "report" / "report.html").exists()
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    none = unified_(*arguments, "--skip-broken", *output)
    assert none.code == 2 and "None of the pictures" in none.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "a portrait"), ("<me>",)),
        (("-r", "avatars/stylegan2:ptti"), ("nearest", "pti")),
        (("-r", "avatars/stylegan2:textual-inversion"), ("Recipes that do",)),
        (("--seeds", "one"), ("--seeds",)),
        (("--suite", "gan-inversion"), ("--suite gan-inversion brings its own pictures",)),
    ],
)
def test_comparisons_that_make_no_sense(
    unified_: Command,
    models: tuple[Path, Path],
    pictures: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    given = arguments if "-r" in arguments else (*arguments, "-r", f"{models[0]}:pti")
    refused(unified_("compare", pictures, *given, "-o", tmp_path / "report"), *words)


def test_a_suite_or_pictures_must_be_given(unified_: Command, models: tuple[Path, Path], tmp_path: Path) -> None:
    refused(unified_("compare", "-o", tmp_path / "report"), "No pictures were given", "--suite")
    refused(unified_("compare", "--suite", "gan-inversio", "-o", tmp_path / "report"), "nearest: gan-inversion")
    refused(unified_("compare", "--suite", "gan-inversion", "-r", "pti", "-o", tmp_path / "report"), "MODEL:RECIPE")


def test_a_comparison_of_which_every_run_fails(unified_: Command, pictures: Path, tmp_path: Path) -> None:
    done = unified_("compare", pictures, "-r", "no/where.pkl:pti", "-o", tmp_path / "report")
    assert done.code == 2 and "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("Error: No run made anything. no/where.pkl:pti: There is no")
    assert not (tmp_path / "report" / "report.html").exists()


def test_what_there_is(unified_: Command) -> None:
    assert "avatars/stylegan2" in unified_("models").out
    recipes = unified_("recipes", "--family", "gan").out
    assert "pti" in recipes and "textual-inversion" not in recipes
    refused(unified_("recipes", "--family", "galaxy"), "gan")
    matrix = unified_("matrix").out
    assert "w+" in matrix and "stylegan" in matrix
    assert "renders from style vectors" in unified_("matrix", "--why").out
    assert "avatars/identity" in unified_("zoo", "list").out
    refused(unified_("zoo", "card", "avatars/identiti"), "nearest", "avatars/identity")
    refused(unified_("zoo", "build", "avatars/nothing"), "no embedded model")


def test_building_hands_the_options_on(unified_: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.zoo.registry import ZooModel
    from unified.zoo.training import BuildSettings

    got: list[BuildSettings] = []
    monkeypatch.setattr(ZooModel, "builder", lambda self: got.append)
    options = ("--steps", 5, "--minutes", 0.5, "--no-resume", "--work", tmp_path / "w", "--output", tmp_path / "o")
    assert unified_("zoo", "build", "avatars/identity", *options).code == 0
    (settings,) = got
    assert settings == BuildSettings(out=tmp_path / "o", work=tmp_path / "w", steps=5, minutes=0.5, resume=False)


@pytest.mark.parametrize(
    "command",
    ["invert", "generate", "edit", "align", "paste", "compare", "models", "recipes", "matrix", "zoo"],
)
def test_every_command_explains_itself(unified_: Command, command: str) -> None:
    done = unified_(command, "--help")
    assert done.code == 0 and "Usage" in done.out
    if command in ("invert", "generate", "edit", "align", "paste", "compare"):
        assert "Example: unified" in done.out
