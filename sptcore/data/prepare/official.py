"""What the official archives hold: the parts of each set, how many files, and the archive each comes from.

Sources: cocodataset.org/#download, doc.bdd100k.com/download.html, the development kit of VOC 2012, CS231n.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A part of a set: a pattern of folders whose files count, or of files; `expected` of them in the full set."""

    name: str
    pattern: str
    expected: int
    archive: str
    optional: bool = False


@dataclass(frozen=True)
class Official:
    """A set as its makers publish it: `folder` below a data root; `strip` is a top folder its archives may have."""

    folder: str
    parts: tuple[Part, ...]
    strip: str = ""


OFFICIAL: dict[str, Official] = {
    "coco": Official(
        "coco",
        (
            Part("training images", "train2017", 118_287, "train2017.zip"),
            Part("validation images", "val2017", 5_000, "val2017.zip"),
            Part("annotations", "annotations/instances_*2017.json", 2, "annotations_trainval2017.zip"),
        ),
        strip="coco",
    ),
    "bdd": Official(
        "bdd100k",
        (
            Part("100k training images", "images/100k/train", 70_000, "bdd100k_images_100k.zip"),
            Part("100k validation images", "images/100k/val", 10_000, "bdd100k_images_100k.zip"),
            Part("boxes of 2020", "labels/det_20/det_*.json", 2, "bdd100k_det_20_labels_trainval.zip"),
            Part("boxes of 2018", "labels/bdd100k_labels_images_*.json", 2, "bdd100k_labels_release.zip", True),
            Part("10k training images", "images/10k/train", 7_000, "bdd100k_images_10k.zip", True),
            Part("10k validation images", "images/10k/val", 1_000, "bdd100k_images_10k.zip", True),
            Part("outlines", "labels/ins_seg/polygons/ins_seg_*.json", 2, "bdd100k_ins_seg_labels_trainval.zip", True),
        ),
        strip="bdd100k",
    ),
    "voc": Official(
        "voc",
        (
            Part("images", "JPEGImages", 17_125, "VOCtrainval_11-May-2012.tar"),
            Part("annotations", "Annotations", 17_125, "VOCtrainval_11-May-2012.tar"),
            Part("lists", "ImageSets/Main", 63, "VOCtrainval_11-May-2012.tar"),
            Part("class masks", "SegmentationClass", 2_913, "VOCtrainval_11-May-2012.tar", True),
            Part("object masks", "SegmentationObject", 2_913, "VOCtrainval_11-May-2012.tar", True),
        ),
    ),
    "tiny-imagenet": Official(
        "tiny-imagenet-200",
        (
            Part("training images", "train/*/images", 100_000, "tiny-imagenet-200.zip"),
            Part("training boxes", "train/*/*_boxes.txt", 200, "tiny-imagenet-200.zip"),
            Part("validation images", "val/images", 10_000, "tiny-imagenet-200.zip"),
            Part("validation boxes", "val/val_annotations.txt", 1, "tiny-imagenet-200.zip"),
            Part("class list", "wnids.txt", 1, "tiny-imagenet-200.zip"),
            Part("class names", "words.txt", 1, "tiny-imagenet-200.zip", True),
        ),
        strip="tiny-imagenet-200",
    ),
}


def layout_home(kind: str, root: Path) -> Path:
    """The folder the patterns of the parts start from: for VOC the devkit year below `root`."""
    if kind != "voc":
        return root
    from sptcore.data.voc.layout import Home

    home = Home.find(root)
    return home.path if home else root / "VOCdevkit" / "VOC2012"
