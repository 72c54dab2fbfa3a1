"""What `import unified` offers, and that it costs nothing before it is used."""

import inspect
import subprocess
import sys

import pytest

import unified


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", unified.__all__)
def test_every_public_name_is_there_with_words_about_it(name: str) -> None:
    assert inspect.getdoc(getattr(unified, name))
    assert name in dir(unified)


def test_public_names_are_typed_and_keyword_only_after_the_pictures() -> None:
    for function in (unified.compare, unified.load, unified.recipes):
        for parameter in inspect.signature(function).parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty
    kinds = {p.name: p.kind for p in inspect.signature(unified.compare).parameters.values()}
    assert kinds["images"] is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert kinds["runs"] is inspect.Parameter.KEYWORD_ONLY


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = unified.nothing
    with pytest.raises(ImportError):
        from unified import nothing  # noqa: F401


def test_import_and_help_come_before_anything_heavy() -> None:
    assert python("import sys, unified; print('torch' in sys.modules)") == "False"
    code = (
        "import sys\nfrom unified.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print('torch' in sys.modules or 'jinja2' in sys.modules)"
    )
    assert python(code).splitlines()[-1] == "False"


def test_functions_stay_functions_after_their_packages_are_imported() -> None:
    code = (
        "import unified.comparison.compare, unified.contract.matrix, unified.contract.recipe, unified\n"
        "print(all(callable(getattr(unified, n)) for n in ('compare', 'matrix', 'models', 'recipes', 'load')))"
    )
    assert python(code) == "True"


def test_what_exists() -> None:
    generators = {entry.name: entry.family for entry in unified.models() if entry.family}
    assert {"gan", "diffusion", "autoregressive"} <= set(unified.families())
    assert generators["avatars/stylegan2"] == "gan"
    assert {"pti", "projector"} <= {entry.name for entry in unified.recipes("gan")}
    assert "pti" not in {entry.name for entry in unified.recipes("diffusion")}
    cells = {(c.backbone, c.space, c.method): c.reason for c in unified.matrix()}
    assert cells["stylegan2", "w+", "optimize"] is None
    assert "renders" in str(cells["emu3", "w+", "optimize"])
    with pytest.raises(unified.UserError, match="gan"):
        unified.recipes("galaxy")
