"""What `unified.compare` returns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from unified.comparison.ask import Ask
from unified.comparison.result import RunResult
from unified.comparison.scorers import Scorers
from unified.files import write_files
from unified.metrics.score import Score


@dataclass(frozen=True)
class Report:
    """The results of every run, in the order they were given.

    references: [N,3,S,S] in 0..1, as they were scored. among_references: fidelity of the reference pictures to
    each other. notes: what the reader must know, such as extractors that were missing.
    """

    runs: tuple[RunResult, ...]
    asks: tuple[Ask, ...]
    seeds: tuple[int, ...]
    references: Tensor
    name: str
    category: str
    scorers: Scorers
    concept_title: str = ""
    among_references: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def scores(self) -> dict[str, dict[str, Score]]:
        """Run's title -> metric -> value with its extractor and averaging."""
        return {run.title: run.scores(self.scorers) for run in self.runs}

    def save(self, folder: str | Path) -> Path:
        """Write report.html (one file, opens from disk), grid.png, scores.csv, runs.csv and concepts/.

        All or none of the report is written. Returns the path of report.html.
        """
        from unified.comparison.page import page
        from unified.comparison.sheet import grid_png
        from unified.comparison.tables import cells_csv, runs_csv

        folder = Path(folder)
        files: dict[str | os.PathLike[str], bytes] = {
            folder / "report.html": page(self).encode(),
            folder / "grid.png": grid_png(self.runs, self.asks, self.seeds, self.references),
            folder / "scores.csv": cells_csv(self.runs, self.asks, self.scorers),
            folder / "runs.csv": runs_csv(self.runs, self.scorers),
        }
        for run in self.runs:
            if run.concept is not None:
                run.concept.save(folder / "concepts" / f"{run.slug}.safetensors")
        write_files(files)
        return folder / "report.html"
