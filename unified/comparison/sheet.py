"""The comparison as one picture: the references on top, a row per prompt, a column per run."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unified.comparison.ask import Ask
from unified.comparison.result import RunResult
from unified.images import to_pil

TILE = 128  # pixels
_GAP = 10
_LABEL = 210  # width of the prompts' column
_INK, _PAPER, _FAINT = (25, 28, 33), (255, 255, 255), (236, 238, 241)


def grid_png(runs: Sequence[RunResult], asks: Sequence[Ask], seeds: Sequence[int], references: Tensor) -> bytes:
    """PNG bytes. references [N,3,H,W]. With several seeds a prompt has a row for each."""
    font, bold = ImageFont.load_default(14), ImageFont.load_default(15)
    rows = [(number, seed) for number in range(len(asks)) for seed in seeds]
    columns = max(len(runs), len(references))
    step = TILE + _GAP
    head = 44
    size = (_LABEL + columns * step + _GAP, _GAP + step + head + len(rows) * step)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, "Reference pictures", (_GAP, _GAP), bold, 24)
    for i, picture in enumerate(references):
        sheet.paste(_tile(picture), (_LABEL + i * step, _GAP))
    for column, run in enumerate(runs):
        model, _, recipe = run.title.rpartition(":")
        corner = (_LABEL + column * step, _GAP + step + 4)
        _write(draw, recipe, corner, bold, 18, lines=1)
        _write(draw, model.rpartition("/")[2], (corner[0], corner[1] + 19), font, 18, lines=1)
    for row, (number, seed) in enumerate(rows):
        top = _GAP + step + head + row * step
        text = asks[number].text + (f" (seed {seed})" if len(seeds) > 1 else "")
        _write(draw, text, (_GAP, top + 4), font, 26, lines=6)
        for column, run in enumerate(runs):
            corner = (_LABEL + column * step, top)
            found = [c for c in run.cells if c.ask == number and c.seed == seed and c.picture is not None]
            if found and found[0].picture is not None:
                sheet.paste(_tile(found[0].picture), corner)
            else:
                draw.rectangle((*corner, corner[0] + TILE - 1, corner[1] + TILE - 1), fill=_FAINT)
                draw.text((corner[0] + 8, corner[1] + TILE // 2 - 8), "no picture", fill=_INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _write(
    draw: ImageDraw.ImageDraw, text: str, at: tuple[int, int], font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    width: int, *, lines: int = 3,
) -> None:  # fmt: skip
    wrapped = textwrap.wrap(text, width, max_lines=lines, placeholder=" ...")
    draw.multiline_text(at, "\n".join(wrapped), fill=_INK, font=font, spacing=3)


def _tile(picture: Tensor) -> Image.Image:
    image = to_pil(picture[None])[0]
    # Small pictures keep their pixels visible.
    filter_ = Image.Resampling.NEAREST if TILE % image.width == 0 else Image.Resampling.LANCZOS
    return image.resize((TILE, TILE), filter_)
