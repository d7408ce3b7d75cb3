"""The embedded data set `shapes`: rendered scenes and captions, with a knob for the imbalance between the
two.

Enters: the `Shapes` section. Leaves: PNG files and splits (`rvlr.data.records`). No download, made in
seconds. What every image shows and every caption says is known, so the best possible retrieval can be computed.

Scenes (`rvlr.datasets.shapes.scene`): 2 to 4 things on a background of 5 colours, each in its own cell of a 3 x 3 grid,
with one of 6 shapes, 7 colours and 2 sizes. Every scene is an edited member of one of 40 families, so that
each has relatives that share most of its attributes: similarity is graded. Place, size, shade and angle are
jittered a little. All scenes of all splits differ in at least one attribute.

Captions (`rvlr.datasets.shapes.grammar`): each leaves facts out with a probability of its own, between 0 and 0.4, and
says the rest in at most 30 words, out of 78: nouns with size and colour, full or half places ("in the top
left corner", "on the left"), relations ("left of", "above"), numbers, background; with synonyms, articles or
none, changing order, openings, capitals and full stops. What a caption says is true.

The knob `imbalance` takes from one modality and leaves the files of the other as they are at 0:

- above 0, captions leave out more, with a probability between 0.5 and 0.9 at 1; the facts stated are always
  a subset of those stated at a lower value;
- below 0, images hide what captions still say: shape, colour, size and background are each drawn as
  "unknown" (`rvlr.datasets.shapes.scene.render`) with a probability of up to HIDDEN. Places and the number of things
  stay visible.

What the oracle of `tests/test_shapes_oracle.py`, which is given all stated and shown facts and guesses among the images
that fit, reaches on the 400 test images from text to image (default section, seed 0):

    imbalance           -1  -0.5     0   0.5     1
    R@1 (%)           17.4  41.6  76.7  48.4  18.7
    R@10 (%)          58.6  83.8  96.8  83.9  53.0
    facts a caption   10.3  10.3  10.3   6.4   3.4

ROUGE-L relevance (docs/METHOD.md, "Evaluation") is graded too: I2I NDCG@10 over the test images is 0.78, 0.67 and 0.57
at imbalance 0, 0.5 and 1 if images are ranked by the attributes their scenes share, and 0.58, 0.54 and 0.48 in
random order. The first are a yardstick for images, not a bound: captions also differ in wording.

To study the method's claim, prepare the data set at several values and compare students with and without
distillation by their single-modal NDCG. From -1 to 0 the captions, and so the relevance, are identical:
numbers can be compared across values. Above 0 the relevance changes with the captions: compare models at one
value only, or by their scenes, which are the same at every value (`scene_relevance`, docs/METHOD.md, "Evaluation").
Captions state places and colours, so train without flips and RandAugment, and with crops that keep
nearly all.
"""

from dataclasses import replace
from pathlib import Path
from random import Random

from rvlr import files, log
from rvlr.config import DOWNLOADS, Shapes
from rvlr.data.records import SPLITS, Check, Record, Split, write_splits
from rvlr.datasets.shapes import grammar
from rvlr.datasets.shapes.grammar import Told
from rvlr.datasets.shapes.scene import Scene, distinct_scenes, render, sample
from rvlr.errors import UserError

HIDDEN = 0.7  # probability at imbalance -1; the symmetric choice, see the oracle's R@10 at -1 and 1
HIDEABLE = ("shape", "colour", "size")


def _stream(seed: int, split: str, index: int, purpose: str) -> Random:
    """Random numbers for one purpose of one scene, so that nothing depends on how many others there are."""
    return Random(f"{seed}/{split}/{index}/{purpose}")


def scenes(section: Shapes) -> dict[str, list[Scene]]:
    """The scenes of each split, all different. Raises UserError if so many do not exist.

    The splits are drawn in the order test, val, train: more training scenes leave the other two as they are.
    """
    wanted = {name: getattr(section, name) for name in SPLITS}
    total, limit = sum(wanted.values()), distinct_scenes()
    if total > limit:
        parts = " + ".join(f"{name} {count}" for name, count in wanted.items())
        raise UserError(
            f"dataset.train, val, test: {parts} = {total} images wanted, but no more than {limit} different "
            "scenes exist; ask for fewer"
        )
    seen: set[Scene] = set()
    drawn: dict[str, list[Scene]] = {name: [] for name in SPLITS}
    for name in reversed(SPLITS):
        for index in range(wanted[name]):
            stream = _stream(section.seed, name, index, "scene")
            scene = sample(section.seed, stream)
            while scene in seen:
                scene = sample(section.seed, stream)
            seen.add(scene)
            drawn[name].append(scene)
    return drawn


def scenes_of(section: Shapes, split: Split) -> list[Scene]:
    """The scenes of a split that `prepare` made with `section`, drawn again. UserError if its captions are others."""
    drawn = scenes(section)[split.name]
    written = [tuple(text for text, _ in captions(section, split.name, *scene)) for scene in enumerate(drawn)]
    if written != [record.captions for record in split.records]:
        raise UserError(
            f"the split {split.name!r} has other captions than those of the scenes that its settings give; run the "
            "prepare stage again"
        )
    return drawn


def captions(section: Shapes, split: str, index: int, scene: Scene) -> list[tuple[str, Told]]:
    """The captions of one scene, each with the facts it states."""
    written = []
    for number in range(section.captions_per_image):
        told = grammar.tell(scene, section.imbalance, _stream(section.seed, split, index, f"tell/{number}"))
        text = grammar.phrase(told, scene, _stream(section.seed, split, index, f"phrase/{number}"))
        written.append((text, told))
    return written


def shown(section: Shapes, split: str, index: int, scene: Scene) -> Scene:
    """What the image of a scene shows of it: all, unless the imbalance is negative."""
    stream = _stream(section.seed, split, index, "hide")
    hidden = HIDDEN * max(-section.imbalance, 0.0)
    background = None if stream.random() < hidden else scene.background
    things = []
    for thing in scene.things:
        things.append(replace(thing, **{name: None for name in HIDEABLE if stream.random() < hidden}))
    return Scene(background, tuple(things))


def prepare(section: Shapes, folder: Path, downloads: Path = DOWNLOADS, check: Check | None = None) -> None:
    """Write `folder/images/{split}/*.png` and `folder/splits`. UserError if there are not enough scenes."""
    drawn = scenes(section)
    records: dict[str, list[Record]] = {name: [] for name in SPLITS}
    progress = log.Progress("rendering", sum(map(len, drawn.values())), "image")
    done = 0
    with files.atomic_folder(folder / "images") as images:
        for split in SPLITS:
            (images / split).mkdir()
            for index, scene in enumerate(drawn[split]):
                image_id = f"{split}-{index:05d}"
                picture = shown(section, split, index, scene)
                pixels = render(picture, section.image_size, _stream(section.seed, split, index, "pixels"))
                pixels.save(images / split / f"{image_id}.png")
                texts = tuple(text for text, _ in captions(section, split, index, scene))
                records[split].append(Record(image_id, f"{split}/{image_id}.png", texts))
                done += 1
                progress.update(done)
    settings = section.model_dump(mode="json")
    write_splits(folder / "splits", records, "../images", check, name=section.name, settings=settings)
