"""Captions of the data set `shapes`: `tell` decides which facts are stated, `phrase` puts them into words.

Both take a scene and a random stream. Decision (`Told`) and text are kept apart, so that what a caption
states can be checked without reading it.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from random import Random

from rvlr.datasets.shapes.scene import ATTRIBUTES, COLUMNS, ROWS, Scene, Thing

LEFT_OUT = ((0.0, 0.4), (0.5, 0.9))  # share of facts left out: lowest and highest, at imbalance 0 and at 1
RELATIONAL = 0.25  # probability that two things are placed by a relation, not by their cells
COUNTING = 0.25  # ... that the number of things is stated
GROUPING = 0.5  # ... that the places of things that look the same are left out
BRIEF = 0.25  # ... of the telegraphic style without articles
SHUFFLED = 0.4  # ... that things are not named in reading order
MAX_WORDS = 30  # evaluation reads no more (docs/METHOD.md, "Training")

_SHAPES = {
    "circle": (("circle", "circles"), ("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "cross": (("cross", "crosses"),),
    "ring": (("ring", "rings"), ("ring", "rings"), ("hoop", "hoops")),
    None: (("shape", "shapes"), ("thing", "things")),
}
_SIZES = {"small": ("small", "small", "small", "little", "tiny"), "large": ("large", "large", "big")}
_COLOURS = {"purple": ("purple", "purple", "purple", "violet")}
_OPENINGS = ("", "", "", "", "there is ", "a picture of ", "an image with ", "i see ", "this shows ")
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_RELATIONS = {  # (first to second, second to first)
    "left": (("left of", "to the left of"), ("right of", "to the right of")),
    "above": (("above", "over"), ("below", "under")),
}


@dataclass(frozen=True)
class Relation:
    """Thing `first` is left of, or above, thing `second`: in another column, or another row, of the grid."""

    first: int
    kind: str
    second: int


@dataclass(frozen=True)
class Told:
    """The facts a caption states. `scene.things` are those of the full scene, None where nothing is said."""

    scene: Scene
    relation: Relation | None = None
    count: int | None = None

    @property
    def facts(self) -> int:
        """How many facts these are."""
        values = [self.scene.background, self.relation, self.count]
        values += [value for thing in self.scene.things for value in astuple(thing)]
        return sum(value is not None for value in values)


# --- what to state -----------------------------------------------------------------------------------------


def _left_out(imbalance: float, level: float) -> float:
    """The probability that a fact is left out; an imbalance below 0 concerns images only."""
    at_zero, at_one = (low + (high - low) * level for low, high in LEFT_OUT)
    return at_zero + (at_one - at_zero) * max(imbalance, 0.0)


def _relation(scene: Scene, rng: Random) -> Relation:
    """A true relation between two things of the scene."""
    first, second = rng.sample(range(len(scene.things)), 2)
    one, other = scene.things[first], scene.things[second]
    sideways = rng.random() < 0.5
    if one.row == other.row or (sideways and one.column != other.column):
        kind, ordered = "left", COLUMNS.index(one.column) < COLUMNS.index(other.column)
    else:
        kind, ordered = "above", ROWS.index(one.row) < ROWS.index(other.row)
    return Relation(first, kind, second) if ordered else Relation(second, kind, first)


def _draws(scene: Scene, rng: Random) -> list[dict[str, float]]:
    """One number in [0, 1) for each thing and each of its attributes: the larger, the longer it is told.
    Things that look alike are spoken of alike, as in "two red circles"."""
    draws: list[dict[str, float]] = []
    first: dict[tuple[str | None, str | None], dict[str, float]] = {}
    for thing in scene.things:
        own = {name: rng.random() for name in ("thing", *ATTRIBUTES)}
        model = first.setdefault((thing.shape, thing.colour), own)
        draws.append({**own, **{name: model[name] for name in ("thing", "shape", "colour", "size")}})
    return draws


def _told_thing(thing: Thing, draws: dict[str, float], left_out: float, placed: bool) -> Thing:
    """What is told of one thing; its place only if `placed`."""
    if draws["thing"] < left_out / 2:
        return Thing()
    kept = {name: getattr(thing, name) for name in ATTRIBUTES if draws[name] >= left_out}
    if not placed:
        kept["row"] = kept["column"] = None
    if (kept.get("row"), kept.get("column")) in ((None, "middle"), ("middle", None)):
        kept["row"] = kept["column"] = None  # English has no short word for the middle row or column alone
    return Thing(**kept)


def tell(scene: Scene, imbalance: float, rng: Random) -> Told:
    """Choose the facts to state. With the same random stream, a greater imbalance states a subset of them."""
    left_out = _left_out(imbalance, rng.random())
    draws = _draws(scene, rng)
    surest = max(draws, key=lambda draw: draw["thing"])
    surest["thing"] = surest[max(("shape", "colour"), key=surest.__getitem__)] = 1.0
    background, counting, related, grouping = (rng.random() for _ in range(4))
    relational = rng.random() < RELATIONAL
    relation = _relation(scene, rng)
    looks = [(thing.shape, thing.colour) for thing in scene.things]
    things = []
    for index, thing in enumerate(scene.things):
        grouped = grouping < GROUPING and looks.count(looks[index]) > 1
        placed = not grouped and not (relational and index in (relation.first, relation.second))
        things.append(_told_thing(thing, draws[index], left_out, placed))
    both = Thing() not in (things[relation.first], things[relation.second])
    return Told(
        Scene(scene.background if background >= left_out else None, tuple(things)),
        relation if relational and both and related >= left_out else None,
        len(scene.things) if counting < COUNTING * (1 - left_out) else None,
    )


# --- how to say it -----------------------------------------------------------------------------------------


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _noun(thing: Thing, many: bool, rng: Random) -> str:
    """Size, colour and shape, as "little red circle"."""
    words = [rng.choice(_SIZES[thing.size])] if thing.size else []
    if thing.colour:
        words.append(rng.choice(_COLOURS.get(thing.colour, (thing.colour,))))
    words.append(rng.choice(_SHAPES[thing.shape])[many])
    return " ".join(words)


def _brief_place(thing: Thing) -> str:
    """Where the thing is, as "top left"; empty if that is not told."""
    return " ".join(dict.fromkeys(word for word in (thing.row, thing.column) if word))


def _place(thing: Thing, rng: Random) -> str:
    """Where the thing is, as "in the top left"; empty if that is not told."""
    row, column = thing.row, thing.column
    if row is None and column is None:
        return ""
    if row is None:
        return f"on the {column}{rng.choice(('', ' side'))}"
    if column is None:
        return f"at the {row}"
    middle = rng.choice(("middle", "center"))
    if row == column == "middle":
        return f"in the {middle}"
    if "middle" in (row, column):
        return f"at the {middle} {column}" if row == "middle" else f"at the {row} {middle}"
    return f"in the {row} {column}{rng.choice(('', '', ' corner'))}"


def _matches(description: Thing, thing: Thing) -> bool:
    """Whether the words for `description` also fit `thing`."""
    return all(told in (None, true) for told, true in zip(astuple(description), astuple(thing), strict=True))


class _Speaker:
    """Names things one after the other: "a red circle", then "another red circle"."""

    def __init__(self, brief: bool, rng: Random) -> None:
        self.brief, self.rng = brief, rng
        self.said: set[Thing] = set()
        self.place_first = not brief and rng.random() < 0.2

    def one(self, thing: Thing) -> str:
        """One thing and its place."""
        noun = _noun(thing, False, self.rng)
        if thing in self.said:
            noun = f"another {noun}"
        elif not self.brief:
            noun = _article(noun)
        self.said.add(thing)
        return self._placed(noun, thing)

    def many(self, count: int, thing: Thing) -> str:
        """`count` things that are described alike."""
        return self._placed(f"{_NUMBERS[count]} {_noun(thing, True, self.rng)}", thing)

    def _placed(self, noun: str, thing: Thing) -> str:
        place = _brief_place(thing) if self.brief else _place(thing, self.rng)
        return " ".join(part for part in ((place, noun) if self.place_first else (noun, place)) if part)


def _join(parts: Sequence[str], rng: Random) -> str:
    if len(parts) == 1:
        return parts[0]
    last = rng.choice((" and ", " and ", ", "))
    return ", ".join(parts[:-1]) + last + parts[-1]


def _list(told: Told, scene: Scene, speaker: _Speaker, rng: Random) -> list[str]:
    """What is said of the things, one part for each thing, group or related pair. A number is said only where
    it covers all things of the scene that fit the words."""
    parts: list[str] = []
    pair: tuple[int, ...] = ()
    things = told.scene.things
    if told.relation:
        pair = (told.relation.first, told.relation.second)
        turned = rng.random() < 0.5
        words = rng.choice(_RELATIONS[told.relation.kind][turned])
        one, other = reversed(pair) if turned else pair
        parts.append(f"{speaker.one(things[one])} {words} {speaker.one(things[other])}")
    rest = [thing for index, thing in enumerate(things) if index not in pair and thing != Thing()]
    if rng.random() < SHUFFLED:
        rng.shuffle(rest)
    for thing in dict.fromkeys(rest):
        count = rest.count(thing)
        if count > 1 and count == sum(_matches(thing, other) for other in scene.things):
            parts.append(speaker.many(count, thing))
        else:
            parts.extend(speaker.one(thing) for _ in range(count))
    return parts


def _frame(told: Told, listed: str, complete: bool, brief: bool, rng: Random) -> str:
    """Put the list of things, the number of things and the background into a sentence."""
    if told.count:
        number = f"{_NUMBERS[told.count]} {rng.choice(_SHAPES[None])[1]}"
        listed = f"{number}: {listed}" if complete else f"{number} including {listed}"
    opening = "" if brief else rng.choice(_OPENINGS)
    if opening == "there is " and listed.split()[0] in _NUMBERS.values():
        opening = "there are "
    ground = told.scene.background
    if ground is None:
        return opening + listed
    form = rng.randrange(5)
    if form == 0 and opening in ("", "there is ", "there are "):
        return f"on {_article(ground)} background {opening}{listed}"
    if form == 1:
        return f"{opening}{listed}. the background is {ground}"
    short = f"on {ground}"
    return f"{opening}{listed} {rng.choice((f'on {_article(ground)} background', short, f'against {ground}'))}"


def _sentence(told: Told, scene: Scene, brief: bool, rng: Random) -> str:
    mentioned = sum(thing != Thing() for thing in told.scene.things)
    parts = _list(told, scene, _Speaker(brief, rng), rng)
    return _frame(told, _join(parts, rng), mentioned == len(scene.things), brief, rng)


def phrase(told: Told, scene: Scene, rng: Random) -> str:
    """A caption of at most MAX_WORDS words that states `told`, which is true of `scene`."""
    text = _sentence(told, scene, rng.random() < BRIEF, rng)
    if len(text.split()) > MAX_WORDS:
        text = _sentence(told, scene, True, rng)
    if rng.random() < 0.5:
        text = ". ".join(part[0].upper() + part[1:] for part in text.split(". "))
    return text + rng.choice((".", ""))
