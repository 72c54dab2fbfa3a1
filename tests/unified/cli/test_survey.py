"""`unified recipes --survey` as a person reads it."""

from collections.abc import Callable

import pytest

from unified.catalog.entries import entries
from unified.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipes(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["recipes", *arguments])
        streams = capsys.readouterr()
        return int(end.value.code or 0), streams.out, streams.err

    return run


def test_all_of_the_survey_and_a_count(recipes: Command) -> None:
    code, out, _ = recipes("--survey")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["method", "year"]
    assert f"{len(entries())} of the survey: " in lines[-1]
    assert all(status in lines[-1] for status in ("runs", "expressible", "not yet"))


def test_one_method_with_its_command_and_reference(recipes: Command) -> None:
    _, out, _ = recipes("--survey", "--search", "pivotal tuning")
    assert "PTI" in out and "Roich et al. 2022" in out and "W + Parameter" in out
    assert "unified invert PICTURES --model avatars/stylegan2 --output me.safetensors --recipe pti" in out


def test_family_and_status_choose(recipes: Command) -> None:
    _, out, _ = recipes("--survey", "--family", "gan", "--status", "not yet")
    rows = [line for line in out.splitlines()[1:-2] if not line.startswith("    ")]
    assert rows and all("  gan  " in row and row.endswith("not yet") for row in rows)


def test_nothing_found_is_no_error(recipes: Command) -> None:
    code, out, _ = recipes("--survey", "--search", "zebra crossing quartz")
    assert code == 0 and "Nothing of the survey matches" in out


def test_bad_input(recipes: Command) -> None:
    code, _, err = recipes("--survey", "--family", "galaxy")
    assert code == 2 and "diffusion" in err
    code, _, err = recipes("--search", "pti")
    assert code == 2 and "--survey" in err
    code, _, err = recipes("--survey", "--status", "perhaps")
    assert code == 2 and "expressible" in err


def test_the_plain_list_is_as_before(recipes: Command) -> None:
    _, out, _ = recipes("--family", "gan")
    assert "pti" in out and "textual-inversion" not in out and "of the survey" not in out
