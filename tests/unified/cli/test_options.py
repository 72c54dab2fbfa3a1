import pytest
from rich.table import Table

from unified.cli.options import numbers, print_numbers, settings, strengths
from unified.errors import UserError


def test_settings_are_read_as_numbers_or_text() -> None:
    found = settings(["steps=30", "guidance=4.5", "sampler=ddim", "clip=true"], option="--sampling")
    assert found == {"steps": 30, "guidance": 4.5, "sampler": "ddim", "clip": True}
    assert settings(None, option="--sampling") == {}


def test_names_of_edits_may_hold_an_equals_sign() -> None:
    assert strengths(["smile=2", "mouth=big smile=-1.5"]) == {"smile": 2.0, "mouth=big smile": -1.5}


@pytest.mark.parametrize("pair", ["smile", "=2", "smile=much", "smile=true"])
def test_edits_without_a_strength_are_refused(pair: str) -> None:
    with pytest.raises(UserError, match="--set"):
        strengths([pair])


def test_numbers_for_all_stages_or_each() -> None:
    assert numbers(None, int, option="--steps") is None
    assert numbers("300", int, option="--steps") == 300
    assert numbers("300,350", int, option="--steps") == [300, 350]
    for wrong in ("many", "3,", "0", "1.5"):
        with pytest.raises(UserError, match="--steps"):
            numbers(wrong, int, option="--steps")


def test_numbers_are_not_cut_off_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(box=None)
    cells = [f"0.{number}23 [0.{number}01, 0.{number}45]" for number in range(9)]
    for _ in cells:
        table.add_column("a score")
    table.add_row(*cells)
    print_numbers(table)
    _, row = capsys.readouterr().out.splitlines()
    assert all(cell in row for cell in cells)
