"""What `spt make-labels` does for every split of a data set: build, merge shards, verify, or say what would be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sptcore.data.format import Source
from sptcore.data.locate import read_split, splits_of
from sptcore.data.lock import build_lock
from sptcore.data.records import DatasetIndex
from sptcore.data.workers import usable_processors
from sptcore.errors import DataError, UsageError, did_you_mean
from sptcore.labels.build.check import check_store, verify_labels
from sptcore.labels.build.ensure import label_path, make_folder
from sptcore.labels.build.job import BuildReport, build_labels, check_target, summarise
from sptcore.labels.build.recipe import LabelSource, Recipe
from sptcore.labels.build.staging import WHOLE, Shard, Staging
from sptcore.labels.build.untrusted import verify_untrusted
from sptcore.labels.pyramid import DEFAULT_STRIDES
from sptcore.labels.store import LabelStore, merge_stores
from sptcore.progress import SILENT, Progress


@dataclass(frozen=True)
class LabelPlan:
    """What to label and where to put it. `splits` empty: all the data set has; `out` None: where labels are looked for.

    With several splits `out` gets the split's name before its suffix. `jobs` None: the processors of this process.
    """

    strides: tuple[int, ...] = DEFAULT_STRIDES
    source: LabelSource = "auto"
    splits: tuple[str, ...] = ()
    out: Path | None = None
    shard: Shard = WHOLE
    jobs: int | None = None
    resume: bool = False
    force: bool = False

    def target(self, index: DatasetIndex, n_splits: int) -> Path:
        """Where the labels of a split go. Raises as `Recipe.of`; UsageError for a shard without a name."""
        if self.out is None:
            if self.shard != WHOLE:
                raise UsageError("a shard needs a name", hint="--out labels-2of8.h5")
            return label_path(index, Recipe.of(index, self.strides, self.source))
        if n_splits == 1:
            return self.out
        return self.out.with_name(f"{self.out.stem}-{index.split}{self.out.suffix}")


@dataclass(frozen=True)
class Outlook:
    """What a build would do: the file, whether it is there already, and the blocks that could be resumed."""

    split: str
    path: Path
    exists: bool
    resumable: bool
    n_images: int
    n_objects: int


def make_labels(source: Source, plan: LabelPlan, progress: Progress = SILENT) -> dict[str, BuildReport]:
    """Build the labels of every split; a report by split. Raises as `build_labels`, the first split in trouble.

    In the place where labels are looked for anyway (no `out`), what is there already is kept if it belongs there.
    """
    done = {}
    for index, path in _targets(source, plan):
        if plan.out is None:
            make_folder(path.parent)
        done[index.split] = build_labels(
            index,
            path,
            strides=plan.strides,
            source=plan.source,
            jobs=plan.jobs or usable_processors(),
            resume=plan.resume or (plan.out is None and path.exists()),
            progress=progress,
            shard=plan.shard,
            force=plan.force,
        )
    return done


def preview_labels(source: Source, plan: LabelPlan) -> list[Outlook]:
    """What `make_labels` would do; nothing is written."""
    return [
        Outlook(
            split=index.split,
            path=path,
            exists=path.exists(),
            resumable=Staging(path, index, Recipe.of(index, plan.strides, plan.source), plan.shard).can_resume(),
            n_images=len(plan.shard.of(index.records)),
            n_objects=sum(len(record.instances) for record in plan.shard.of(index.records)),
        )
        for index, path in _targets(source, plan)
    ]


def merge_labels(
    source: Source, shards: Sequence[Path], plan: LabelPlan, progress: Progress = SILENT
) -> dict[str, BuildReport]:
    """Join the shards of one split, the same bytes as a build in one go; they must belong to `source`.

    Raises DataError for a shard that is not there, IntegrityError for damaged or foreign ones or where one is missing,
    EnvironmentFault where the output cannot be written.
    """
    with LabelStore(shards[0]) as first:
        params = first.header.params
        split, recipe_source = str(params.get("split")), params.get("source")
        strides = first.strides
    index = read_split(source, split)
    recipe = Recipe.of(index, strides, recipe_source)  # type: ignore[arg-type]
    path = plan.out or label_path(index, recipe)
    check_target(path, index, replace=plan.force)
    for shard in shards:
        check_store(shard, index, recipe, part=None)
    with build_lock(path, progress=progress):
        merge_stores(shards, path, progress)
    return {split: summarise(path, built=True)}


def verify_stores(
    source: Source, plan: LabelPlan, *, untrusted: bool = False, progress: Progress = SILENT
) -> dict[str, tuple[Path, int]]:
    """Derive the labels of every split again and compare; the file and the number of images compared, by split.

    With `untrusted` only a child process opens the files. Raises IntegrityError for anything that differs.
    """
    verify = verify_untrusted if untrusted else verify_labels
    if not untrusted and plan.out is not None and not plan.splits and plan.out.is_file():
        with LabelStore(plan.out) as store:
            plan = replace(plan, splits=(str(store.header.params.get("split")),))
    return {index.split: (path, verify(path, index, progress=progress)) for index, path in _targets(source, plan)}


def _targets(source: Source, plan: LabelPlan) -> Iterator[tuple[DatasetIndex, Path]]:
    there = splits_of(source)
    wanted = plan.splits or tuple(there)
    for split in wanted:
        if split not in there:
            hint = did_you_mean(split, there) or f"it has: {', '.join(there) or 'none'}"
            raise DataError(f"the data set has no split {split!r}", where=str(source.root), hint=hint)
    for split in wanted:
        index = read_split(source, split)
        yield index, plan.target(index, len(wanted))
