"""Where BDD100K keeps its labels and images: https://doc.bdd100k.com/download.html.

images/{100k,10k}/{train,val,test}/NAME.jpg
labels/det_20/det_{train,val}.json                     boxes, the labels of 2020
labels/bdd100k_labels_images_{train,val}.json          boxes, lanes and drivable areas, the labels of 2018
labels/ins_seg/{polygons,rles}/ins_seg_{train,val}.json and labels/ins_seg/bitmasks/{train,val}/NAME.png
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sptcore.data.format import Source
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError

SPLITS = ("train", "val", "test")
_PROBES = 20


@dataclass(frozen=True)
class LabelSet:
    """One of the label sets of BDD100K: what it is called, where its file lies, which images it labels."""

    name: str
    pattern: str
    images: str

    def path(self, root: Path, split: str) -> Path:
        """Where the labels of `split` would lie."""
        return root / self.pattern.format(split=split)

    def is_of(self, kind: str) -> bool:
        """Whether these are labels of a kind, as the folder below `labels` is called: "det_20", "ins_seg"."""
        return Path(self.pattern).parts[1] == kind


LABEL_SETS = (
    LabelSet("det_20", "labels/det_20/det_{split}.json", "100k"),
    LabelSet("the labels of 2018", "labels/bdd100k_labels_images_{split}.json", "100k"),
    LabelSet("ins_seg polygons", "labels/ins_seg/polygons/ins_seg_{split}.json", "10k"),
    LabelSet("ins_seg run lengths", "labels/ins_seg/rles/ins_seg_{split}.json", "10k"),
    LabelSet("ins_seg bitmasks", "labels/ins_seg/bitmasks/{split}", "10k"),
)


@dataclass(frozen=True)
class Labels:
    """The labels chosen for a split: their path, their set (None for a file of another place), and the other sets."""

    path: Path
    label_set: LabelSet | None
    others: tuple[str, ...] = ()

    @property
    def is_instance_segmentation(self) -> bool:
        """Whether these are the labels of the 10k images, which have eight classes instead of ten."""
        return "ins_seg" in self.path.parts or self.path.name.startswith("ins_seg")

    def note(self) -> str:
        """One line on what was read, and what else there is."""
        line = f"labels read: {self.label_set.name if self.label_set else self.path.name}"
        return line + (f" (also here: {', '.join(self.others)}; choose with --ann)" if self.others else "")


def detect(root: Path) -> bool:
    """Whether labels of BDD100K lie below `root`."""
    return bool(splits(root))


def splits(root: Path) -> list[str]:
    """The splits that have labels of any set."""
    return [split for split in SPLITS if _present(root, split)]


def has_ins_seg(root: Path, wanted: tuple[str, ...] = ("train", "val")) -> bool:
    """Whether each split has outlines, run lengths or bitmasks of the 10k images, and these images."""
    return all(
        (root / "images" / "10k" / split).is_dir() and any(one.is_of("ins_seg") for one in _present(root, split))
        for split in wanted
    )


def find_labels(source: Source, split: str) -> Labels:
    """The labels of `split`: those given by `--ann`, else the first set there is, of `source.kind` where that is given.

    Raises DataError without any.
    """
    if source.annotation is not None:
        path = source.annotation
        own = next((s for s in LABEL_SETS if any(_same(path, s.path(source.root, split)) for split in SPLITS)), None)
        return Labels(path, own)
    present = [one for one in _present(source.root, split) if source.kind is None or one.is_of(source.kind)]
    if not present:
        found = ", ".join(splits(source.root)) or "none"
        raise DataError(f"no labels of split {split!r} (found: {found})", where=str(source.root / "labels"))
    return Labels(present[0].path(source.root, split), present[0], tuple(s.name for s in present[1:]))


def find_images(source: Source, split: str, labels: Labels, names: list[str]) -> Path:
    """The folder of the images: `images/100k/<split>` or `images/10k/<split>`, the one that holds the first names."""
    if split in source.image_roots:
        return Path(source.image_roots[split])
    usual = "10k" if labels.is_instance_segmentation else "100k"
    places = [source.root / "images" / kind / split for kind in (usual, "100k" if usual == "10k" else "10k")]
    places += [source.root / "images" / split, source.root / "images"]
    for folder in places:
        if any((folder / name).exists() for name in names[:_PROBES]):
            return folder
    return places[0]


def image_folder(index: DatasetIndex) -> Path:
    """`images/100k/val` or wherever below `images` the source has them."""
    parts = index.image_root.parts
    if "images" in parts:
        return Path(*parts[len(parts) - 1 - parts[::-1].index("images") :])
    return Path("images", "10k" if index.has_masks else "100k", index.split)


def subset_path(index: DatasetIndex) -> Path:
    """Where a subset keeps its labels: the place of their set, else that of det_20, the polygons or the bitmasks."""
    source = index.annotation_path
    for label_set in LABEL_SETS:
        place = Path(label_set.pattern.format(split=index.split))
        if source.parts[-len(place.parts) :] == place.parts:
            return place
    outlines = "ins_seg bitmasks" if source.is_dir() else "ins_seg polygons"
    kind = outlines if index.has_masks or source.is_dir() else "det_20"
    return Path(next(s for s in LABEL_SETS if s.name == kind).pattern.format(split=index.split))


def _present(root: Path, split: str) -> list[LabelSet]:
    return [label_set for label_set in LABEL_SETS if label_set.path(root, split).exists()]


def _same(first: Path, second: Path) -> bool:
    return first.absolute() == second.absolute()
