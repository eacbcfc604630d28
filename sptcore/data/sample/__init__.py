"""The built-in sample set: toys on muted backgrounds, drawn by our own seeded generator, written in true layouts.

240 training and 48 validation pictures of 128x128 with exact masks; for classification (the layout of Tiny ImageNet)
48 and 10 pictures of 64x64 for each of the five classes. Pixels and annotations of the COCO layout are the same on
every machine; the sets that officially hold JPEG (BDD100K, VOC, Tiny ImageNet) hold JPEG here too.
"""

from __future__ import annotations

from pathlib import Path

from sptcore.cache import cache_folder
from sptcore.data.sample.draws import Draws
from sptcore.data.sample.scene import CLASSES, Scene, draw_scene
from sptcore.errors import EnvironmentFault, did_you_mean
from sptcore.files import atomic_folder

__all__ = ["CLASSES", "FOLDERS", "SAMPLE_VERSION", "SPLITS", "sample_root", "sample_scenes", "write_sample"]

# Raised whenever a pixel or an annotation changes: caches of different versions never mix.
SAMPLE_VERSION = 1
SPLITS = {"train": 240, "val": 48}
FIRST_IMAGE_ID = {"train": 1, "val": 1001}
# Where in the stream of pictures a split begins: chosen so that both are alike in their mixture.
FIRST_DRAW = {"train": 0, "val": 86}
# Layout, as FORMATS calls it -> the folder of the set as its official archive calls it.
FOLDERS = {
    "coco": "coco",
    "bdd": "bdd100k",
    "voc": "VOCdevkit/VOC2012",
    "tiny-imagenet": "tiny-imagenet-200",
}


def sample_scenes(split: str) -> list[Scene]:
    """The pictures of a split ("train" or "val") with their objects, in the order of their image ids."""
    first = FIRST_DRAW[split]
    numbers = range(first, first + SPLITS[split])
    return [draw_scene(Draws(SAMPLE_VERSION, *split.encode(), number)) for number in numbers]


def sample_root(layout: str = "coco") -> Path:
    """The folder that holds the sample set in `layout`, drawn into the cache on first use (2 to 5 s).

    The set itself is `sample_root(layout) / FOLDERS[layout]`. Several processes may ask at once. Raises ValueError for
    an unknown layout and EnvironmentFault when the cache cannot be written.
    """
    root = cache_folder() / f"sample-v{SAMPLE_VERSION}"
    target = root / _folder(layout)
    if not target.is_dir():
        try:
            write_sample(root, layout)
        except EnvironmentFault:
            if not target.is_dir():  # another process was first otherwise; whole folders only ever appear by renaming
                raise
    return root


def write_sample(out: Path, layout: str = "coco") -> list[Path]:
    """Draw the sample set into the new folder `out / FOLDERS[layout]`, whole or not at all; returns that folder.

    Raises ValueError for an unknown layout and EnvironmentFault when the folder exists or cannot be written.
    """
    target = Path(out) / _folder(layout)
    if target.exists():
        raise EnvironmentFault("the output exists already", where=str(target), hint="choose another folder")
    with atomic_folder(target) as folder:
        _draw_into(folder, layout)
    return [target]


def _folder(layout: str) -> str:
    if layout not in FOLDERS:
        raise ValueError(f"unknown sample layout {layout!r}; {did_you_mean(layout, FOLDERS) or ', '.join(FOLDERS)}")
    return FOLDERS[layout]


def _draw_into(folder: Path, layout: str) -> None:
    from sptcore.data.sample.bdd_layout import write_bdd
    from sptcore.data.sample.coco_layout import write_coco
    from sptcore.data.sample.tiny_layout import write_tiny
    from sptcore.data.sample.voc_layout import write_voc

    if layout == "tiny-imagenet":
        write_tiny(folder, SAMPLE_VERSION)
        return
    write = {"coco": write_coco, "bdd": write_bdd, "voc": write_voc}[layout]
    for split in SPLITS:
        write(folder, split, sample_scenes(split), FIRST_IMAGE_ID[split])
