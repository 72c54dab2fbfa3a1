"""The vocabulary of the avatars: every attribute with its values in index order.

A person is skin, hair style, hair colour and facial hair, and a shade of skin and hair of their own that no
word names. Everything else varies from picture to picture of one person.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import astuple, dataclass

SKIN_COLOURS: dict[str, str] = {
    "pale": "#FFDFC4",
    "light": "#F0BE90",
    "tanned": "#E09A5A",
    "brown": "#B9713F",
    "dark brown": "#93532A",
    "black": "#5F402E",
}

# Hair style -> its name in python_avatars (HairType).
HAIR_STYLES: dict[str, str] = {
    "bald": "NONE",
    "balding": "SIDES",
    "buzz cut": "BUZZCUT",
    "short": "SHORT_FLAT",
    "short wavy": "SHORT_WAVED",
    "short dreadlocks": "SHORT_DREADS_1",
    "frizzy": "SHORT_DREADS_2",
    "undercut": "FRIZZLE",
    "mohawk": "MOHAWK",
    "spiky": "EVIL_SPIKE",
    "pompadour": "POMPADOUR",
    "quiff": "QUIFF",
    "pixie cut": "PIXIE",
    "shaggy": "SHAGGY",
    "mullet": "SHAGGY_MULLET",
    "messy": "MOWGLI",
    "wild": "WILD",
    "half shaved": "HALF_SHAVED",
    "bob": "BOB",
    "fringe bob": "MIA_WALLACE",
    "bun": "BUN",
    "ponytail": "BRAIDS",
    "cornrows": "CORNROWS",
    "long braids": "TWIST_LONG_HAIR",
    "curly": "CURLY",
    "afro": "FRO",
    "long wavy": "CURVY",
    "long dreadlocks": "DREADS",
    "long side-swept": "STRAIGHT_1",
    "long with a fringe": "STRAIGHT_STRAND",
    "afro with a headband": "FRO_BAND",
    "rockabilly": "ELVIS",
    "braided pigtails": "DREADLOCKS",
    "professor": "EINSTEIN_HAIR",
}

#: Never in the training or validation pictures: the out-of-domain styles of the benchmark.
HELD_OUT_HAIR: tuple[str, ...] = ("afro with a headband", "rockabilly", "braided pigtails", "professor")

# "none": bald and without facial hair, so that no hair colour is to be seen.
HAIR_COLOURS: dict[str, str] = {
    "none": "#000000",
    "black": "#1F1A1D",
    "brown": "#5B3A29",
    "auburn": "#A5592A",
    "red": "#DE3310",
    "blonde": "#E2BB62",
    "white": "#F4F0EA",
    "grey": "#95979C",
    "pink": "#F486AC",
}

FACIAL_HAIR: dict[str, str] = {
    "none": "NONE",
    "short beard": "BEARD_LIGHT",
    "full beard": "BEARD_MEDIUM",
    "long beard": "BEARD_MAGESTIC",
    "moustache": "MOUSTACHE_MAGNUM",
    "handlebar moustache": "MOUSTACHE_FANCY",
}

GLASSES: dict[str, str] = {
    "none": "NONE",
    "round glasses": "ROUND",
    "square glasses": "PRESCRIPTION_2",
    "sunglasses": "WAYFARERS",
}

EYES: dict[str, str] = {
    "open": "DEFAULT",
    "closed": "CLOSED",
    "happy": "HAPPY",
    "wide": "SURPRISED",
    "heart": "HEART",
    "wink": "WINK",
}

BROWS: dict[str, str] = {
    "relaxed": "DEFAULT_NATURAL",
    "angry": "ANGRY_NATURAL",
    "raised": "RAISED_EXCITED_NATURAL",
    "worried": "SAD_CONCERNED_NATURAL",
    "one raised": "UP_DOWN_NATURAL",
}

MOUTHS: dict[str, str] = {
    "neutral": "SERIOUS",
    "smile": "TWINKLE",
    "big smile": "BIG_SMILE",
    "sad": "SAD",
    "scream": "SCREAM_OPEN",
    "tongue": "TONGUE",
    "grimace": "GRIMACE",
}

CLOTHES: dict[str, str] = {
    "t-shirt": "SHIRT_CREW_NECK",
    "v-neck": "SHIRT_V_NECK",
    "scoop neck": "SHIRT_SCOOP_NECK",
    "hoodie": "HOODIE",
    "sweater": "COLLAR_SWEATER",
    "overalls": "OVERALL",
    "blazer": "BLAZER_SHIRT",
}

CLOTHES_COLOURS: dict[str, str] = {
    "black": "#22252A",
    "white": "#F1F1F1",
    "grey": "#8B9095",
    "blue": "#2450C4",
    "light blue": "#79C6F7",
    "red": "#D62828",
    "pink": "#FF78B4",
    "green": "#2C9E4B",
    "orange": "#F5861D",
    "yellow": "#F7DA35",
}

BACKGROUND_COLOURS: dict[str, str] = {
    "white": "#FFFFFF",
    "grey": "#A6ABB0",
    "blue": "#3D79E0",
    "light blue": "#A8DEF8",
    "green": "#79CC89",
    "yellow": "#FBE27F",
    "pink": "#FAB3D0",
    "purple": "#A274D6",
}

#: Attribute -> its values in index order. The order of the attributes is the column order of the data.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "skin": tuple(SKIN_COLOURS),
    "hair": tuple(HAIR_STYLES),
    "hair_colour": tuple(HAIR_COLOURS),
    "facial_hair": tuple(FACIAL_HAIR),
    "glasses": tuple(GLASSES),
    "eyes": tuple(EYES),
    "brows": tuple(BROWS),
    "mouth": tuple(MOUTHS),
    "clothes": tuple(CLOTHES),
    "clothes_colour": tuple(CLOTHES_COLOURS),
    "background": tuple(BACKGROUND_COLOURS),
}

PERSON_ATTRIBUTES: tuple[str, ...] = ("skin", "hair", "hair_colour", "facial_hair")
VARYING_ATTRIBUTES: tuple[str, ...] = tuple(name for name in ATTRIBUTES if name not in PERSON_ATTRIBUTES)

#: Half width of the uniform jitter of (hue, saturation, lightness), all on scales of 0 to 1.
SHADE_RANGE: tuple[float, float, float] = (0.012, 0.08, 0.03)


@dataclass(frozen=True)
class Shade:
    """What one person's skin and hair add to the named colour, in hue, saturation and lightness (0 to 1)."""

    skin_hue: float = 0.0
    skin_saturation: float = 0.0
    skin_lightness: float = 0.0
    hair_hue: float = 0.0
    hair_saturation: float = 0.0
    hair_lightness: float = 0.0

    def values(self) -> tuple[float, ...]:
        """The six numbers, skin first."""
        return astuple(self)


@dataclass(frozen=True)
class Person:
    """The attributes that stay with a person, and the person's shade."""

    skin: str
    hair: str
    hair_colour: str
    facial_hair: str
    shade: Shade = Shade()

    def attributes(self) -> dict[str, str]:
        """The person attributes by name."""
        return {name: getattr(self, name) for name in PERSON_ATTRIBUTES}

    def key(self) -> tuple[str, ...]:
        """The person attributes without the shade: what words can say of the person."""
        return tuple(self.attributes().values())


#: The named colours as they are.
PLAIN = Shade()


def draw_shade(rng: random.Random) -> Shade:
    """A shade drawn uniformly from the small box of SHADE_RANGE."""
    return Shade(*(rng.uniform(-width, width) for width in SHADE_RANGE * 2))


def draw_person(rng: random.Random, *, hair: tuple[str, ...] | None = None) -> Person:
    """A person with every attribute uniform, except that half have no facial hair.

    hair: the styles to choose from; None is every style that is not held out.
    """
    styles = hair or tuple(name for name in HAIR_STYLES if name not in HELD_OUT_HAIR)
    style = rng.choice(styles)
    facial_hair = _half_none("facial_hair", rng)
    colour = rng.choice([name for name in HAIR_COLOURS if name != "none"])
    if style == "bald" and facial_hair == "none":
        colour = "none"
    return Person(rng.choice(ATTRIBUTES["skin"]), style, colour, facial_hair, draw_shade(rng))


def draw_varying(rng: random.Random) -> dict[str, str]:
    """The attributes of one picture that are not the person's: uniform, except that half wear no glasses."""
    values = {name: rng.choice(ATTRIBUTES[name]) for name in VARYING_ATTRIBUTES}
    values["glasses"] = _half_none("glasses", rng)
    return values


def encode(row: Mapping[str, str]) -> list[int]:
    """Names to indices, in the column order of the data."""
    return [values.index(row[name]) for name, values in ATTRIBUTES.items()]


def decode(indices: object) -> dict[str, str]:
    """Indices in column order (a list, array or tensor of one row) to names."""
    numbers = [int(value) for value in indices]  # type: ignore[attr-defined]
    return {name: values[number] for (name, values), number in zip(ATTRIBUTES.items(), numbers, strict=True)}


def _half_none(name: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return "none"
    return rng.choice([value for value in ATTRIBUTES[name] if value != "none"])
