"""The sample set for classification: pictures of 64x64 with one thing each, as Tiny ImageNet lays them out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sptcore.data.sample.draws import Draws
from sptcore.data.sample.pictures import write_jpeg
from sptcore.data.sample.scene import CLASSES, Scene, draw_portrait

A_CLASS = {"train": 48, "val": 10}
WNIDS = tuple(f"n9{number:07d}" for number in range(1, len(CLASSES) + 1))
_ONE_GREY_IN = 40  # as in the original, a few pictures are grey


def portraits(version: int, split: str) -> Iterator[tuple[int, int, Scene]]:
    """(class, number, picture) of every picture of a split, class after class."""
    for number in range(A_CLASS[split]):
        for c, category in enumerate(CLASSES):
            yield c, number, draw_portrait(Draws(version, *split.encode(), 1 << 20, c, number), category)


def write_tiny(folder: Path, version: int) -> None:
    """Write both splits into `folder`."""
    (folder / "wnids.txt").write_bytes("".join(f"{wnid}\n" for wnid in WNIDS).encode())
    words = "".join(f"{wnid}\t{name}\n" for wnid, name in zip(WNIDS, CLASSES, strict=True))
    (folder / "words.txt").write_bytes(words.encode())
    boxes: dict[str, list[str]] = {wnid: [] for wnid in WNIDS}
    for wnid in WNIDS:
        (folder / "train" / wnid / "images").mkdir(parents=True)
    for c, number, scene in portraits(version, "train"):
        name = f"{WNIDS[c]}_{number}.JPEG"
        _write_picture(folder / "train" / WNIDS[c] / "images" / name, scene, number * len(WNIDS) + c)
        boxes[WNIDS[c]].append("\t".join([name, *_corners(scene)]))
    for wnid, lines in boxes.items():
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_bytes("".join(f"{line}\n" for line in lines).encode())
    _write_val(folder / "val", version)


def _write_val(folder: Path, version: int) -> None:
    (folder / "images").mkdir(parents=True)
    lines = []
    for place, (c, _, scene) in enumerate(portraits(version, "val")):
        name = f"val_{place}.JPEG"
        _write_picture(folder / "images" / name, scene, place)
        lines.append("\t".join([name, WNIDS[c], *_corners(scene)]))
    (folder / "val_annotations.txt").write_bytes("".join(f"{line}\n" for line in lines).encode())


def _write_picture(path: Path, scene: Scene, place: int) -> None:
    write_jpeg(path, scene.image, grey=place % _ONE_GREY_IN == _ONE_GREY_IN - 1)


def _corners(scene: Scene) -> list[str]:
    """The box's corner pixels counted from 0, both inside."""
    x1, y1, x2, y2 = scene.objects[0].box_xyxy
    return [str(x1), str(y1), str(x2 - 1), str(y2 - 1)]
