"""The sample set as PASCAL VOC 2012 lays it out: XML, image-set lists, palette masks.

VOC knows no crowds: they become difficult objects. Masks have no void border, as these are exact.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sptcore.data.sample.pictures import write_jpeg, write_palette
from sptcore.data.sample.scene import CLASSES, Scene, SceneObject

# VOC numbers its classes alphabetically.
ORDER = tuple(sorted(CLASSES))

_XML = """<annotation>
	<folder>VOC2012</folder>
	<filename>{name}.jpg</filename>
	<source>
		<database>spt built-in sample set</database>
		<annotation>PASCAL VOC2012</annotation>
		<image>drawn</image>
	</source>
	<size>
		<width>{width}</width>
		<height>{height}</height>
		<depth>3</depth>
	</size>
	<segmented>{segmented}</segmented>
{objects}</annotation>
"""
_OBJECT = """	<object>
		<name>{name}</name>
		<pose>Unspecified</pose>
		<truncated>{truncated}</truncated>
		<difficult>{difficult}</difficult>
		<bndbox>
			<xmin>{box[0]}</xmin>
			<ymin>{box[1]}</ymin>
			<xmax>{box[2]}</xmax>
			<ymax>{box[3]}</ymax>
		</bndbox>
	</object>
"""


def write_voc(folder: Path, split: str, scenes: list[Scene], first_id: int) -> None:
    """Write `split` ("train" or "val") into the devkit year `folder`; `trainval` lists grow by it."""
    for name in ("Annotations", "JPEGImages", "SegmentationClass", "SegmentationObject"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"2025_{image_id:06d}" for image_id in range(first_id, first_id + len(scenes))]
    for name, scene in zip(names, scenes, strict=True):
        (folder / "Annotations" / f"{name}.xml").write_bytes(_annotation(name, scene).encode())
        write_jpeg(folder / "JPEGImages" / f"{name}.jpg", scene.image)
        if scene.objects:
            by_class, by_object = _masks(scene)
            write_palette(folder / "SegmentationClass" / f"{name}.png", by_class)
            write_palette(folder / "SegmentationObject" / f"{name}.png", by_object)
    _write_lists(folder / "ImageSets", split, dict(zip(names, scenes, strict=True)))


def _annotation(name: str, scene: Scene) -> str:
    height, width = scene.image.shape[:2]
    objects = "".join(_object(thing, width, height) for thing in scene.objects)
    return _XML.format(name=name, width=width, height=height, segmented=int(bool(scene.objects)), objects=objects)


def _object(thing: SceneObject, width: int, height: int) -> str:
    """Corners are pixels counted from 1, both inside."""
    x1, y1, x2, y2 = thing.box_xyxy
    cut = x1 == 0 or y1 == 0 or x2 == width or y2 == height
    box = (x1 + 1, y1 + 1, x2, y2)
    return _OBJECT.format(name=thing.category, truncated=int(cut), difficult=int(thing.is_crowd), box=box)


def _masks(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    by_class, by_object = (np.zeros(scene.image.shape[:2], np.uint8) for _ in range(2))
    for number, thing in enumerate(scene.objects, 1):
        by_class[thing.mask] = ORDER.index(thing.category) + 1
        by_object[thing.mask] = number
    return by_class, by_object


def _write_lists(folder: Path, split: str, scenes: dict[str, Scene]) -> None:
    lists = {"Main/{}.txt": list(scenes), "Segmentation/{}.txt": [name for name in scenes if scenes[name].objects]}
    for category in ORDER:
        lists[f"Main/{category}_{{}}.txt"] = [f"{name} {_presence(scene, category)}" for name, scene in scenes.items()]
    for pattern, lines in lists.items():
        for kind in (split, "trainval"):
            path = folder / pattern.format(kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as stream:
                stream.write("".join(f"{line}\n" for line in lines).encode())


def _presence(scene: Scene, category: str) -> str:
    """1 present, 0 only difficult ones, -1 absent; aligned as VOC has it."""
    things = [thing for thing in scene.objects if thing.category == category]
    return "-1" if not things else " 0" if all(thing.is_crowd for thing in things) else " 1"
