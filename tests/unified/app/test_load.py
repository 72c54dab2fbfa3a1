"""Twenty people's jobs on a real server: none lost, none mixed up, memory flat."""

from pathlib import Path

import pytest

from tests.perf.app_load import growth, measure, setting

pytest.importorskip("gradio", reason="the app needs gradio")
pytestmark = pytest.mark.slow


def test_twenty_people_get_their_own_and_the_server_does_not_grow(tmp_path: Path) -> None:
    folder = tmp_path / "app"
    outcomes = measure(setting("tiny", folder), 20, folder)
    assert sorted(outcome.number for outcome in outcomes) == list(range(20))
    early, last = growth(outcomes)
    assert last < early + 40 * 2**20  # fifteen people's jobs later; were one kept of each, it would show
