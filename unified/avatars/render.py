"""Draw an avatar: attributes to a picture of 64 by 64 pixels and the mask of the person.

Needs python_avatars (the drawings) and resvg_py (the rasteriser), which only building the data needs.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from unified.avatars import attributes as vocabulary
from unified.avatars.attributes import PLAIN, Shade
from unified.errors import UserError

CANVAS = 'width="264px" height="280px" viewBox="0 0 264 280"'
#: Left, top and side of the square of the 264 x 280 canvas that becomes the picture.
CROP = (17, 12, 230)
# The jacket of the blazer has a fixed colour in the drawing; the shirt under it takes the fabric colour.
BLAZER_COLOUR, BLAZER_LAPEL_COLOUR = "#3A4C5A", "#2F4351"
BLAZER_SHIRT_COLOURS = {"white": "#8B9095"}


def render(attributes: Mapping[str, str], shade: Shade = PLAIN, *, size: int = 64) -> np.ndarray:
    """The picture, uint8 [size, size, 3]. Errors: see render_with_mask."""
    return render_with_mask(attributes, shade, size=size)[0]


def render_with_mask(
    attributes: Mapping[str, str], shade: Shade = PLAIN, *, size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 [size, size, 3], and the person's mask, bool [size, size] (True: person).

    attributes: a value for every name of ATTRIBUTES. A pixel is the person's where at least half is covered.
    Raises UserError for a missing or unknown value, and when the drawing packages are not installed.
    """
    _check(attributes)
    svg = avatar_svg(attributes, shade).replace(CANVAS, _crop(size), 1)
    _, rasteriser = drawing_packages()
    png = bytes(rasteriser.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    alpha = rgba[..., 3:].astype(np.float32) / 255
    ground = np.array(_rgb(vocabulary.BACKGROUND_COLOURS[attributes["background"]]), np.float32)
    picture = rgba[..., :3] * alpha + ground * (1 - alpha)
    return np.rint(picture).astype(np.uint8), rgba[..., 3] >= 128


def avatar_svg(attributes: Mapping[str, str], shade: Shade) -> str:
    """The drawing on a transparent ground, as SVG text of the full canvas."""
    drawings, _ = drawing_packages()
    hair_colour = shaded(vocabulary.HAIR_COLOURS[attributes["hair_colour"]], shade.values()[3:])
    clothes_colour = vocabulary.CLOTHES_COLOURS[attributes["clothes_colour"]]
    blazer = attributes["clothes"] == "blazer"
    shirt = BLAZER_SHIRT_COLOURS.get(attributes["clothes_colour"], "#FFFFFF")
    avatar = drawings.Avatar(
        style=drawings.AvatarStyle.TRANSPARENT,
        top=_member(drawings.HairType, vocabulary.HAIR_STYLES[attributes["hair"]]),
        eyebrows=_member(drawings.EyebrowType, vocabulary.BROWS[attributes["brows"]]),
        eyes=_member(drawings.EyeType, vocabulary.EYES[attributes["eyes"]]),
        mouth=_member(drawings.MouthType, vocabulary.MOUTHS[attributes["mouth"]]),
        facial_hair=_member(drawings.FacialHairType, vocabulary.FACIAL_HAIR[attributes["facial_hair"]]),
        skin_color=shaded(vocabulary.SKIN_COLOURS[attributes["skin"]], shade.values()[:3]),
        hair_color=hair_colour,
        facial_hair_color=hair_colour,
        accessory=_member(drawings.AccessoryType, vocabulary.GLASSES[attributes["glasses"]]),
        clothing=_member(drawings.ClothingType, vocabulary.CLOTHES[attributes["clothes"]]),
        clothing_color=shirt if blazer else clothes_colour,
    )
    svg: str = avatar.render()
    if blazer:
        lapel = shaded(clothes_colour, (0.0, 0.0, -0.08))
        svg = svg.replace(BLAZER_COLOUR, clothes_colour).replace(BLAZER_LAPEL_COLOUR, lapel)
    return svg


def shaded(colour: str, offset: tuple[float, ...]) -> str:
    """A colour "#rrggbb" moved by (hue, saturation, lightness), each on a scale of 0 to 1 and clipped."""
    red, green, blue = (value / 255 for value in _rgb(colour))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    moved = colorsys.hls_to_rgb(
        (hue + offset[0]) % 1.0,
        min(max(lightness + offset[2], 0.0), 1.0),
        # A grey has no hue: saturation in proportion, so that grey and white hair stay grey and white.
        min(max(saturation * (1 + offset[1] / max(saturation, 0.3)), 0.0), 1.0),
    )
    return "#" + "".join(f"{round(value * 255):02x}" for value in moved)


def _check(attributes: Mapping[str, str]) -> None:
    for name, values in vocabulary.ATTRIBUTES.items():
        if attributes.get(name) not in values:
            raise UserError(
                f"The avatar attribute {name!r} is {attributes.get(name)!r}; give one of {', '.join(values)}."
            )


def _crop(size: int) -> str:
    left, top, side = CROP
    return f'width="{size}px" height="{size}px" viewBox="{left} {top} {side} {side}"'


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _member(enumeration: Any, name: str) -> Any:
    return enumeration.__members__[name]


def drawing_packages() -> tuple[ModuleType, ModuleType]:
    """python_avatars and resvg_py; UserError that names the extra when one is not installed."""
    try:
        import python_avatars
        import resvg_py
    except ImportError as error:
        raise UserError(
            f"Drawing avatars needs the package {error.name!r}, which is not installed; run: pip install 'unified[zoo]'"
        ) from error
    return python_avatars, resvg_py
