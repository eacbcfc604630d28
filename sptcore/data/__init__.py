"""Annotations: what is in an image and how much of it is object. No torch in this folder.

`FORMATS` is the one table of formats; `formats()` adds what other packages bring through the entry point group
`spt.formats`.
"""

from __future__ import annotations

import functools
import warnings

from sptcore.data.format import Format

FORMATS: dict[str, Format] = {
    "coco": Format(
        name="coco",
        title="COCO",
        module="sptcore.data.coco",
        folders=("coco", "coco2017", "COCO"),
        home="https://cocodataset.org/#download",
        layout="annotations/instances_{train,val}2017.json beside train2017/ and val2017/",
    ),
    "bdd": Format(
        name="bdd",
        title="BDD100K",
        module="sptcore.data.bdd",
        folders=("bdd100k", "bdd", "BDD100K"),
        home="http://bdd-data.berkeley.edu/",
        layout="labels/det_20/det_{train,val}.json, or another label set, beside images/{100k,10k}/{train,val}/",
    ),
    "voc": Format(
        name="voc",
        title="PASCAL VOC",
        module="sptcore.data.voc",
        folders=("voc", "VOCdevkit", "VOC2012", "VOC"),
        home="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        layout="VOCdevkit/VOC2012/{Annotations,ImageSets,JPEGImages,SegmentationClass,SegmentationObject}/",
    ),
    "tiny-imagenet": Format(
        name="tiny-imagenet",
        title="Tiny ImageNet",
        module="sptcore.data.tiny_imagenet",
        folders=("tiny-imagenet-200", "tiny-imagenet"),
        home="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        layout="wnids.txt, words.txt, train/WNID/{WNID_boxes.txt,images/}, val/{val_annotations.txt,images/}",
    ),
}


@functools.cache
def formats() -> dict[str, Format]:
    """FORMATS and the plug-ins: an entry point of group `spt.formats` names a Format or a module with its functions.

    A plug-in that cannot be loaded is left out with a warning that names it; a built-in format is never replaced.
    """
    from importlib.metadata import entry_points

    table = dict(FORMATS)
    for point in entry_points(group="spt.formats"):
        package = point.dist.name if point.dist else point.value
        if point.name in table:
            warnings.warn(f"format plug-in {point.name!r} of {package} has a name already in use", stacklevel=2)
            continue
        try:
            found = point.load()
        except Exception as error:  # a plug-in may fail in any way; it must not take the command with it
            warnings.warn(f"format plug-in {point.name!r} of {package} cannot be loaded: {error!r}", stacklevel=2)
            continue
        table[point.name] = found if isinstance(found, Format) else Format(point.name, point.name, found.__name__)
    return table
