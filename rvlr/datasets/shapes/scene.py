"""Scenes of the data set `shapes`: what they are made of, how they are sampled and rendered.

A `Scene` stands for what is there (no field is None), for what an image shows of it, or for what a caption
says of it (None where the attribute is hidden or left out). Whether image and caption fit is thus a question
about two scenes.
"""

import math
from dataclasses import dataclass, fields, replace
from random import Random

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (218, 38, 38),
    "orange": (246, 134, 20),
    "yellow": (246, 208, 32),
    "green": (34, 148, 60),
    "blue": (38, 92, 222),
    "purple": (132, 48, 178),
    "pink": (252, 128, 190),
}
BACKGROUNDS: dict[str, Rgb] = {
    "white": (250, 250, 250),
    "black": (18, 18, 18),
    "beige": (226, 206, 170),
    "mint": (170, 228, 200),
    "lavender": (204, 196, 244),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
RADII = {"small": 0.078, "large": 0.14}  # shares of the image's side
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "middle", "right")

FAMILIES = 40
EDIT = 0.15  # probability that a scene departs from its family in an attribute, or in the number of things
THINGS = (2, 2, 2, 2, 3, 3, 3, 4, 4)  # how many things, as often as listed
ALIKE = 0.3  # probability that a thing takes shape and colour of another

_GREY, _GREY_BACKGROUND, _MEDIUM = (112, 112, 112), (184, 184, 184), 0.11
_FINE = 4  # supersampling, which gives the anti-aliased edges
_STRETCH = {"square": 0.88, "triangle": 1.14, "star": 1.16}  # makes the shapes look equally large


@dataclass(frozen=True)
class Thing:
    """One object. None: not stated by the caption, or not shown by the image."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    row: str | None = None
    column: str | None = None


ATTRIBUTES = tuple(field.name for field in fields(Thing))


@dataclass(frozen=True)
class Scene:
    """A background and its things, in reading order."""

    background: str | None
    things: tuple[Thing, ...]


# --- drawing at random -------------------------------------------------------------------------------------


def distinct_scenes() -> int:
    """How many different scenes exist."""
    looks = len(SHAPES) * len(COLOURS) * len(RADII)
    cells = len(ROWS) * len(COLUMNS)
    drawings: int = sum(math.comb(cells, count) * looks**count for count in set(THINGS))
    return len(BACKGROUNDS) * drawings


def _free_cell(things: list[Thing], rng: Random) -> tuple[str, str]:
    taken = {(thing.row, thing.column) for thing in things}
    return rng.choice([(row, column) for row in ROWS for column in COLUMNS if (row, column) not in taken])


def _new_thing(things: list[Thing], rng: Random) -> Thing:
    """A thing for a free cell; now and then it looks like one that is there already."""
    row, column = _free_cell(things, rng)
    size = rng.choice(list(RADII))
    if things and rng.random() < ALIKE:
        return replace(rng.choice(things), size=size, row=row, column=column)
    return Thing(rng.choice(SHAPES), rng.choice(list(COLOURS)), size, row, column)


def _edited(thing: Thing, others: list[Thing], rng: Random) -> Thing:
    """`thing` with each attribute drawn again with probability EDIT."""
    if rng.random() < EDIT:
        thing = replace(thing, shape=rng.choice(SHAPES))
    if rng.random() < EDIT:
        thing = replace(thing, colour=rng.choice(list(COLOURS)))
    if rng.random() < EDIT:
        thing = replace(thing, size=rng.choice(list(RADII)))
    if rng.random() < EDIT:
        row, column = _free_cell(others, rng)
        thing = replace(thing, row=row, column=column)
    return thing


def sample(seed: int, rng: Random) -> Scene:
    """An edited member of one of the FAMILIES families of `seed`; relatives share most attributes."""
    family = Random(f"{seed}/family/{rng.randrange(FAMILIES)}")
    background = family.choice(list(BACKGROUNDS))
    things: list[Thing] = []
    for _ in range(family.choice(THINGS)):
        things.append(_new_thing(things, family))
    for index, thing in enumerate(things):
        things[index] = _edited(thing, things[:index] + things[index + 1 :], rng)
    count = rng.choice(THINGS) if rng.random() < EDIT else len(things)
    while len(things) < count:
        things.append(_new_thing(things, rng))
    while len(things) > count:
        things.pop(rng.randrange(len(things)))
    if rng.random() < EDIT:
        background = rng.choice(list(BACKGROUNDS))
    in_order = sorted(things, key=lambda thing: (ROWS.index(thing.row), COLUMNS.index(thing.column)))
    return Scene(background, tuple(in_order))


# --- rendering ---------------------------------------------------------------------------------------------


def _shade(colour: Rgb, amount: int) -> Rgb:
    red, green, blue = (min(255, max(0, channel + amount)) for channel in colour)
    return red, green, blue


def _corners(count: int, radii: tuple[float, ...], turn: float) -> list[tuple[float, float]]:
    """Corners of a polygon around (0, 0), the first one on top; radii repeat, `turn` is in radians."""
    points = []
    for index in range(count):
        angle = turn + 2 * math.pi * index / count - math.pi / 2
        radius = radii[index % len(radii)]
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


def _outline(shape: str, turn: float) -> list[tuple[float, float]]:
    """The polygon of `shape`, as large as its circle of radius 1 suggests."""
    if shape == "square":
        return _corners(4, (math.sqrt(2),), turn + math.pi / 4)
    if shape == "triangle":
        return _corners(3, (1.0,), turn)
    if shape == "star":
        return _corners(10, (1.0, 0.42), turn)
    arm, cos, sin = 0.34, math.cos(turn), math.sin(turn)
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    cross = []
    for _ in range(4):
        cross += quarter
        quarter = [(-y, x) for x, y in quarter]
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in cross]


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, ground: Rgb, side: int, rng: Random) -> None:
    """Draw one thing on a canvas of `side` pixels; the same random numbers are used no matter what is hidden."""
    x = side * ((2 * COLUMNS.index(thing.column) + 1) / 6 + rng.uniform(-0.016, 0.016))
    y = side * ((2 * ROWS.index(thing.row) + 1) / 6 + rng.uniform(-0.016, 0.016))
    radius = side * (RADII[thing.size] if thing.size else _MEDIUM) * rng.uniform(0.95, 1.05)
    fill = _shade(COLOURS[thing.colour] if thing.colour else _GREY, rng.randint(-12, 12))
    turn = math.radians(rng.uniform(-7, 7))

    def disc(scale: float, colour: Rgb) -> None:
        reach = radius * scale
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)

    if thing.shape is None:
        for step in range(1, 13):
            share = step / 12
            red, green, blue = (round(a + (b - a) * share) for a, b in zip(ground, fill, strict=True))
            disc(1.25 - share, (red, green, blue))
    elif thing.shape in ("circle", "ring"):
        disc(1.0, fill)
        if thing.shape == "ring":
            disc(0.56, ground)
    else:
        radius *= _STRETCH.get(thing.shape, 1.0)
        draw.polygon([(x + radius * u, y + radius * v) for u, v in _outline(thing.shape, turn)], fill=fill)


def render(shown: Scene, image_size: int, rng: Random) -> Image.Image:
    """An RGB image, `image_size` pixels square. `rng` jitters place, size, shade and angle a little.

    What `shown` hides (None) is drawn as something no scene has: a grey colour, a size between small and
    large, a soft round spot in place of a shape, a grey background.
    """
    side = image_size * _FINE
    ground = _shade(BACKGROUNDS[shown.background] if shown.background else _GREY_BACKGROUND, rng.randint(-5, 5))
    image = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(image)
    for thing in shown.things:
        _draw_thing(draw, thing, ground, side, rng)
    return image.reduce(_FINE)
