"""The data sets of a plan: found, cut with make-sparse, padded, and known again by their fingerprints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from sptcore.data.bdd.layout import has_ins_seg
from sptcore.data.format import Source
from sptcore.data.locate import locate, open_index, read_manifest, read_split
from sptcore.data.padding import NO_PADDING
from sptcore.data.records import DatasetIndex
from sptcore.data.sparse import SparsePlan, SparseRule, make_sparse
from sptcore.data.sparse.publish import check_files
from sptcore.errors import DataError
from sptcore.labels.build.recipe import fingerprint
from sptcore.plans.schema import SetPlan
from sptcore.progress import SILENT, Progress

SPLITS = ("train", "val")
_FEW = 2  # training images with objects below which a sample's other split is learned from
_EVERY = Fraction(1)


@dataclass(frozen=True)
class FoundSet:
    """Where a set of a plan is cut from. `origin`: "data", or "sample" for the built-in one."""

    name: str
    plan: SetPlan
    source: Source
    origin: str


@dataclass(frozen=True)
class ReadySet:
    """A set to train on. `data` and `format` are settings of training; `split` is the one learned from, `val` judges.

    `prints`: SHA-256 of each split's annotations, `images` how many it has; the same on another machine. `kind`: of
    labels, where the plan has a wish (None: as found); `annotations`: the file or folder of each split that the layout
    alone would not lead to.
    """

    data: str
    format: str
    split: str
    origin: str
    images: dict[str, int] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    kind: str | None = None
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> dict[str, str]:
        """The settings of training that say where the data are."""
        where = {"data": self.data, "format": self.format, "split": self.split, "val_split": "val"}
        chosen = {"ann": self.annotations.get(self.split), "val_ann": self.annotations.get("val")}
        return where | {name: path for name, path in chosen.items() if path is not None}


def find_sets(
    wanted: Mapping[str, SetPlan], *, data_root: Path | None, scale: str, progress: Progress = SILENT
) -> tuple[dict[str, FoundSet], dict[str, DataError]]:
    """Each set's source, and the errors of those that are not there.

    At scale smoke the built-in sample stands in where `data_root` is None or lacks the set.
    """
    found, missing = {}, {}
    for name, plan in wanted.items():
        if scale == "smoke" and data_root is None:
            found[name] = _sample(name, plan)
            continue
        try:
            found[name] = FoundSet(name, plan, _as_wished(locate(plan.source, root=data_root), plan), "data")
        except DataError as error:
            if scale == "smoke":
                progress.note(f"{plan.title}: no {plan.source} below {data_root}, the built-in sample stands in")
                found[name] = _sample(name, plan)
            else:
                missing[name] = error
    return found, missing


def _sample(name: str, plan: SetPlan) -> FoundSet:
    return FoundSet(name, plan, _as_wished(locate("sample", format=plan.source), plan), "sample")


def _as_wished(source: Source, plan: SetPlan) -> Source:
    """The source with the labels the plan would rather have, where they lie there."""
    return replace(source, kind=plan.labels) if plan.labels is not None and has_ins_seg(source.root) else source


def refuse_missing(missing: Mapping[str, DataError], wanted: Mapping[str, SetPlan]) -> None:
    """Raise one DataError for all sets that are not there, with where to get them."""
    if not missing:
        return
    names = ", ".join(dict.fromkeys(f"{wanted[name].source} ({wanted[name].title})" for name in missing))
    hints = dict.fromkeys(where_to_get(error) for error in missing.values())
    wheres = dict.fromkeys(error.where or "" for error in missing.values())
    raise DataError(f"data sets are missing: {names}", where="; ".join(wheres), hint="; ".join(hints))


def where_to_get(error: DataError) -> str:
    """The hint of a set that is not found, with the option that a reproduction has for its folder."""
    return (error.hint or "").replace("--root", "--data-root")


def is_cut(plan: SetPlan, limit: int | None) -> bool:
    """Whether a set is written anew by make-sparse, or used as it lies."""
    return plan.ratio is not None or plan.canvas != NO_PADDING or limit is not None


def rule_of(plan: SetPlan, limit: int | None) -> SparseRule:
    """The cut of a set; with a limit alone, every image that is not all object."""
    bare = plan.ratio is None and plan.canvas == NO_PADDING
    return SparseRule(_EVERY if bare else plan.ratio, limit=limit)


def ready_set(found: FoundSet, folder: Path, *, limit: int | None, progress: Progress = SILENT) -> ReadySet:
    """The set as it is trained on, cut into `folder` first where that is not done yet or its images are elsewhere now.

    Raises what make-sparse raises.
    """
    source, plan = found.source, found.plan
    data, cut = source.root, is_cut(plan, limit)
    if cut:
        data = folder / found.name
        if not _is_usable(data):
            folder.mkdir(parents=True, exist_ok=True)
            sparse = SparsePlan(splits=SPLITS, pad=plan.canvas, force=data.exists(), jobs=1)
            make_sparse(source, rule_of(plan, limit), data, sparse, progress=progress)
    indexes = [open_index(data, one, format=source.format) if cut else read_split(source, one) for one in SPLITS]
    split = "train"
    if limit is not None and sum(bool(record.instances) for record in indexes[0].records) < _FEW:
        progress.note(f"{plan.title}: too few training images in this sample, the validation images are learned")
        split = "val"
    return ReadySet(
        str(data),
        source.format,
        split,
        found.origin,
        {index.split: len(index.records) for index in indexes},
        _prints(indexes),
        source.kind,
        {index.split: str(index.annotation_path) for index in indexes if source.kind is not None and not cut},
    )


def _prints(indexes: Iterable[DatasetIndex]) -> dict[str, str]:
    return {index.split: fingerprint(index)[0] for index in indexes}


def _is_usable(folder: Path) -> bool:
    """Whether a set is cut already, its files are its manifest's and its images can be reached from here."""
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None:
        return False
    roots = [part["image_root"] for part in manifest["splits"].values()]
    if not all((folder / root).is_dir() for root in roots):
        return False
    check_files(folder, manifest)
    return True


def count_images(found: FoundSet, *, limit: int | None) -> int:
    """Training images of a set, cut on paper only where it is to be cut; nothing is written."""
    plan, source = found.plan, found.source
    if not is_cut(plan, limit):
        return len(read_split(source, "train").records)
    report = make_sparse(
        source, rule_of(plan, limit), Path(found.name), SparsePlan(splits=("train",), pad=plan.canvas, dry_run=True)
    )
    return report.kept
