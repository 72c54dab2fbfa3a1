"""Figures for notebooks: labelled rows of pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from unified.images import to_numpy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def grid(rows: Mapping[str, Tensor | Sequence[Tensor]], *, titles: Sequence[str] = (), inches: float = 1.15) -> Figure:
    """One row of pictures for each entry of `rows`, its name at the left.

    rows: name -> [n,3,H,W] in 0..1, or a sequence of [3,H,W] or [1,3,H,W]; they may differ in length.
    titles: above the columns, wrapped. inches: side of a picture. The figure is closed: display it, or save it.
    """
    from matplotlib import pyplot

    pictures = {
        name: [picture for item in value for picture in to_numpy(item if item.ndim == 4 else item.unsqueeze(0))]
        for name, value in rows.items()
    }
    columns = max(map(len, pictures.values()))
    letters = int(13 * inches)  # of the titles' size, above one picture
    titles = ["\n".join(textwrap.fill(line, letters) for line in title.split("\n")) for title in titles]
    margin = 0.085 * max(map(len, pictures)) + 0.1
    header = 0.28 * (1 + max((title.count("\n") for title in titles), default=0)) if titles else 0.05
    width, height = margin + columns * inches, header + len(pictures) * inches
    figure = pyplot.figure(figsize=(width, height), dpi=110)
    for row, (name, drawn) in enumerate(pictures.items()):
        bottom = 1 - (header + (row + 1) * inches) / height
        figure.text((margin - 0.08) / width, bottom + inches / height / 2, name, ha="right", va="center", fontsize=8)
        for column, picture in enumerate(drawn):
            place = ((margin + column * inches) / width, bottom, 0.96 * inches / width, 0.96 * inches / height)
            axes = figure.add_axes(place)
            axes.imshow(picture, interpolation="lanczos")
            axes.axis("off")
            if row == 0 and column < len(titles):
                axes.set_title(titles[column], fontsize=8, pad=3)
    pyplot.close(figure)
    return figure
