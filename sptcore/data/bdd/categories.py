"""The classes of BDD100K, their older names, and what is not an object.

Source: the configurations det.toml and ins_seg.toml of the BDD100K toolkit (`name_mapping`, `ignore_mapping`).
"""

from __future__ import annotations

from dataclasses import dataclass

from sptcore.data.records import Category

DETECTION = (
    *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    *("traffic light", "traffic sign"),
)
SEGMENTATION = DETECTION[:8]
NAMES_OF_2018 = {
    "person": "pedestrian",
    "bike": "bicycle",
    "motor": "motorcycle",
    "caravan": "car",
    "van": "car",
}
# Regions that the benchmark neither rewards nor punishes: taken as crowds of the class they resemble.
IGNORED = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
# Where the road is, not what is on it.
GROUND = ("lane", "drivable area")


@dataclass(frozen=True)
class Classes:
    """Which names a file may use: `numbers` maps a name to (category id, counts as a crowd)."""

    categories: tuple[Category, ...]
    numbers: dict[str, tuple[int, bool]]

    @classmethod
    def official(cls, names: tuple[str, ...]) -> Classes:
        """The classes of 2020, known by their names of 2018 too."""
        ids = {name: number for number, name in enumerate(names, 1)}
        numbers = {name: (number, False) for name, number in ids.items()}
        numbers |= {old: (ids[new], False) for old, new in NAMES_OF_2018.items()}
        numbers |= {name: (ids[like], True) for name, like in IGNORED.items()}
        return cls(tuple(Category(number, name) for name, number in ids.items()), numbers)

    @classmethod
    def own(cls, names: list[str]) -> Classes:
        """The classes that a file defines in its `config`, numbered from 1 in their order."""
        categories = tuple(Category(number, name) for number, name in enumerate(names, 1))
        return cls(categories, {category.name: (category.category_id, False) for category in categories})


def is_ground(name: str) -> bool:
    """Whether a label tells of lanes or drivable areas."""
    return name in GROUND or name.startswith(("lane/", "area/"))
