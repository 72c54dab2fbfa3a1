"""`unified align` and `paste`: the face of a photo, cut out as face models expect it, and put back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified.cli.options import console, remarks
from unified.errors import UserError


def align(
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURES", help="Photos, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "--out", "-o", help="Folder of the faces.")],
    face: Annotated[
        int | None, typer.Option(help="Which face, from left to right, the first being 0; needed if there are several.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels a side; default: as in the photo, at most 1024.", min=16, max=4096)
    ] = None,
    points: Annotated[
        bool, typer.Option("--points", help="Also write PICTURE.face.json beside each, for `evaluate face-identity`.")
    ] = False,
) -> None:
    """Cut the face out of photos, upright and of the size that models trained on FFHQ or CelebA-HQ expect.

    Eyes and mouths are found by the extra "faces", or read from PICTURE.face.json beside a picture. Beside each face
    lies a file that says where it is from: `unified paste` puts an edited one back.

    Example: unified align holiday.jpg --output faces --face 1
    """
    from unified.faces.align import align_all, files_of, save_all, write_points
    from unified.faces.detector import NoFace

    files = files_of(pictures)
    found, failed = align_all(files, face=face, size=size)
    if points:
        known = {one.picture: one.points for one in found}
        for path in files:
            if path in known or isinstance(failed[path], NoFace):
                write_points(path, known.get(path))
    for path in save_all(found, output):
        console.print(str(path), markup=False)
    reasons = [str(error) for error in failed.values()]
    for reason in reasons[:-1]:
        remarks.print(reason, markup=False)
    if reasons:
        more = f"{len(failed)} of {len(files)} photos were not aligned, the last: " if len(files) > 1 else ""
        raise UserError(more + reasons[-1])


def paste(
    edited: Annotated[Path, typer.Argument(metavar="EDITED", help="The face after editing.")],
    place: Annotated[Path, typer.Argument(metavar="ALIGN.JSON", help="What `unified align` wrote beside the face.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The photo to write.")],
    picture: Annotated[Path | None, typer.Option(help="The photo, if it lies elsewhere by now.")] = None,
) -> None:
    """Put an edited face back into its photo; where nothing was edited the photo stays as it is.

    Example: unified paste edited.png faces/holiday.align.json --output holiday-edited.png
    """
    from unified.faces.align import paste_back

    console.print(str(paste_back(edited, place, output, picture=picture)), markup=False)
