"""The job make-sparse: measure, decide, cut. Published whole or not at all, the same bytes however it was run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sptcore.data import formats
from sptcore.data.format import Block, Source
from sptcore.data.locate import read_manifest, splits_of
from sptcore.data.lock import build_lock
from sptcore.data.padding import NO_PADDING, write_padded
from sptcore.data.sparse import measure as measuring
from sptcore.data.sparse.measure import (
    BlockMeasure,
    OpenSplit,
    Stage,
    fingerprint,
    first_image,
    joined,
    measurer,
)
from sptcore.data.sparse.publish import (
    Placing,
    check_files,
    place_images,
    set_around,
    split_document,
    verdicts,
    write_manifest,
    write_ratios,
)
from sptcore.data.sparse.rule import KEPT, SparseRule, percent
from sptcore.data.sparse.shards import SHARD_FILE, SHARD_SCHEMA, Merged, Shard, SplitShard, in_shard, write_shard
from sptcore.data.workers import map_in_order
from sptcore.errors import DataError, EnvironmentFault, IntegrityError, ResourceError, UsageError
from sptcore.files import TEMP_MARK, as_fault, atomic_folder
from sptcore.progress import SILENT, Progress

RATIOS = "ratios.csv"
PLACED = ("images", "pad", "size")


@dataclass(frozen=True)
class SparsePlan:
    """How a set is built; none of it but `splits`, `images` and `pad` shows in the result.

    `splits`: all there are when None. `images`: where they go ("none": the manifest tells where they are). `executor`
    replaces `jobs`. `shard` (number, count) measures one part; `merge` are the folders of all parts. `pad` (columns,
    rows) writes the images on a black canvas as PNG.
    """

    splits: tuple[str, ...] | None = None
    images: Placing = "none"
    pad: tuple[int, int] = NO_PADDING
    jobs: int = 1
    executor: Executor | None = None
    shard: tuple[int, int] | None = None
    merge: tuple[Path, ...] = ()
    resume: bool = False
    dry_run: bool = False
    force: bool = False
    fail_empty: bool = False
    allow_truncated: bool = False


@dataclass(frozen=True)
class SparseReport:
    """`out` (None for a dry run), its manifest, and whether it was built just now. A shard has no manifest."""

    out: Path | None
    manifest: dict[str, Any]
    built: bool = True

    @property
    def kept(self) -> int:
        """Images kept, all splits together."""
        return sum(part["kept"] for part in self.manifest.get("splits", {}).values())


def default_out(source: Source, rule: SparseRule, plan: SparsePlan) -> Path:
    """`data/coco-s20`, or the same below $SPT_DATA; the folder `data` is made."""
    base = Path(os.environ.get("SPT_DATA") or "data").expanduser()
    name = source.name if rule.max_ratio is None else f"{source.name}-s{percent(rule.max_ratio)}"
    if plan.pad != NO_PADDING:
        name += f"-pad{plan.pad[0]}x{plan.pad[1]}"
    if plan.shard is not None:
        name += f".part-{plan.shard[0]}-of-{plan.shard[1]}"
    if not plan.dry_run:
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise as_fault(error, base) from error
    return base / name


def make_sparse(
    source: Source,
    rule: SparseRule,
    out: Path,
    plan: SparsePlan | None = None,
    *,
    progress: Progress = SILENT,
) -> SparseReport:
    """Cut the sparse set of `source` under `rule` into the folder `out`.

    Raises UsageError (options that make no sense together), DataError (the source is invalid), EnvironmentFault (the
    output exists or cannot be written, or is being built), IntegrityError (the source changed, parts do not fit,
    nothing kept with `fail_empty`), ResourceError (a worker died, memory). Whatever it raises, `out` is as it was.
    """
    plan = plan or SparsePlan()
    build = _Build(source, rule, out, plan, progress)
    build.check()
    try:
        if plan.dry_run:
            return build.run(None, _Nothing())
        with build_lock(out):
            return build.under_lock()
    except MemoryError as error:
        raise ResourceError("not enough memory for this data set", hint="use fewer --jobs") from error


class _Nothing:
    """No blocks from earlier, and nowhere to keep new ones."""

    def claim(self, split: str, fingerprint: str) -> None: ...
    def get(self, split: str, number: int) -> BlockMeasure | None: ...
    def put(self, split: str, number: int, part: BlockMeasure) -> None: ...


Earlier = Stage | Merged | _Nothing


@dataclass
class _Build:
    source: Source
    rule: SparseRule
    out: Path
    plan: SparsePlan
    progress: Progress

    def check(self) -> None:
        """What can be refused before any work is."""
        plan = self.plan
        if plan.jobs < 1:
            raise UsageError(f"{plan.jobs} jobs do nothing")
        if plan.shard is not None and plan.merge:
            raise UsageError("a run either measures one part or merges all of them")
        if self.rule.max_ratio is None and plan.pad == NO_PADDING and not self.rule.min_ratio:
            raise UsageError("no maximum ratio", hint="add --max-ratio 0.2")
        if plan.pad != NO_PADDING and plan.images != "none":
            raise UsageError("padded images are always written", hint="leave --images out")
        if plan.pad != NO_PADDING and self.source.padding != NO_PADDING:
            raise UsageError("the images of this set are padded already", where=str(self.source.root))
        if not plan.dry_run:
            self._check_target()

    def _check_target(self) -> None:
        out, here = self.out, str(self.out)
        if out.parent.exists() and not out.parent.is_dir():
            raise EnvironmentFault("what it would go into is a file", where=here, hint="choose another --out")
        if not out.parent.is_dir():
            raise EnvironmentFault("the folder it goes into does not exist", where=here, hint=f"mkdir -p {out.parent}")
        if any(part.startswith(TEMP_MARK) for part in out.absolute().parts):
            raise UsageError("the output lies inside a build that is under way", where=here)
        target = out.resolve()
        inputs = [self.source.root, self.source.annotation, self.source.origin, *self.source.image_roots.values()]
        if any(place is not None and place.resolve().is_relative_to(target) for place in inputs):
            raise UsageError(
                "the output would replace its own input", where=here, hint="choose another folder with --out"
            )
        if (outer := set_around(target)) is not None:
            message = f"the output lies inside {outer}, which make-sparse wrote and which would then look damaged"
            raise UsageError(message, where=here, hint=f"choose a folder outside of it: --out {outer}-{target.name}")
        if out.exists():
            self._check_existing()
        if not os.access(out.parent, os.W_OK | os.X_OK):
            raise as_fault(PermissionError(13, "Permission denied"), out)

    def _check_existing(self) -> None:
        out, here = self.out, str(self.out)
        if not out.is_dir():
            raise EnvironmentFault("the output is no folder", where=here, hint="choose another one with --out")
        ours = not any(out.iterdir()) or (out / SHARD_FILE).is_file() or read_manifest(out) is not None
        if not ours:
            hint = "choose another folder with --out, or remove this one yourself"
            raise EnvironmentFault("the output is a folder that make-sparse did not write", where=here, hint=hint)
        if not self.plan.force and not self.plan.resume:
            manifest = read_manifest(out)
            if manifest is not None:
                check_files(out, manifest)
            state = "" if manifest is None else ", its files as its manifest says"
            raise EnvironmentFault(f"the output exists already{state}", where=here, hint="add --force to replace it")

    def under_lock(self) -> SparseReport:
        """The build proper; nobody else writes `out` meanwhile."""
        plan = self.plan
        if self.out.exists() and not plan.force:
            self._check_existing()
            return self._complete_already()
        earlier = Merged(plan.merge) if plan.merge else Stage(self.out, resume=plan.resume)
        with _kept_for_resume(earlier), atomic_folder(self.out, replace=plan.force) as folder:
            return self.run(folder, earlier)

    def _complete_already(self) -> SparseReport:
        manifest = read_manifest(self.out)
        if manifest is None:
            raise EnvironmentFault("the output exists already", where=str(self.out), hint="add --force to replace it")
        placed = {key: manifest[key] for key in PLACED if key in manifest}
        same = manifest.get("rule") == self.rule.as_document() and placed == self._placed()
        splits = self._splits() if same else ()
        if not same or set(manifest["splits"]) != set(splits) or not all(map(partial(self._is_of, manifest), splits)):
            raise IntegrityError(
                "the output is complete, but of another source or rule, or with its images in another place",
                where=str(self.out),
                hint="add --force to replace it",
            )
        check_files(self.out, manifest)
        self.progress.note(f"{self.out} is complete already, its files as its manifest says")
        return SparseReport(self.out, manifest, built=False)

    def _is_of(self, manifest: dict[str, Any], split: str) -> bool:
        header = OpenSplit(self.source, formats()[self.source.format], split).header
        return manifest["splits"][split].get("source", {}).get("sha256") == header.source_sha256

    def _placed(self) -> dict[str, str]:
        """What the manifest says of the images and of how they were read."""
        padded, size = self.plan.pad != NO_PADDING, self.source.options.size
        columns, rows = self.plan.pad if padded else self.source.padding
        placed = {"images": "padded" if padded else self.plan.images}
        if (columns, rows) != NO_PADDING:
            placed["pad"] = f"{columns}x{rows}"
        return placed if size is None else placed | {"size": f"{size[0]}x{size[1]}"}

    def run(self, folder: Path | None, earlier: Earlier) -> SparseReport:
        """Measure and cut every split; with `folder` None nothing is written."""
        documents: dict[str, dict[str, Any]] = {}
        shards: dict[str, SplitShard] = {}
        for split in self._splits():
            opened = OpenSplit(self.source, formats()[self.source.format], split)
            for note in opened.header.notes:
                self.progress.note(f"{split}: {note}")
            pixels = self.rule.pixel_rule(opened.header.categories)
            mark = fingerprint(opened.header, opened.n_images, pixels, self.source.options)
            earlier.claim(split, mark)
            parts = self._measure(opened, measurer(pixels), earlier)
            if self.plan.shard is not None:
                shards[split] = SplitShard(mark, {str(number): part for number, part in parts})
                continue
            measured = joined((part for _, part in parts), opened.header)
            documents[split] = self._cut(opened, measured, folder)
        if self.plan.shard is not None:
            return self._end_shard(folder, shards)
        return self._end(folder, documents)

    def _splits(self) -> tuple[str, ...]:
        """The splits to be cut. Raises DataError for one that is not there."""
        there = splits_of(self.source)
        wanted = tuple(dict.fromkeys(there if self.plan.splits is None else self.plan.splits))
        if not wanted:
            raise DataError("no split is found here", where=str(self.source.root))
        for split in wanted:
            if split not in there and self.source.annotation is None:
                raise DataError(f"no split {split!r} (found: {', '.join(there)})", where=str(self.source.root))
        return wanted

    def _measure(self, opened: OpenSplit, measure: Any, earlier: Earlier) -> Iterator[tuple[int, BlockMeasure]]:
        """Every block of this part with its number, in order; those measured earlier are taken as they are."""
        known: dict[int, BlockMeasure] = {}
        order: list[int] = []

        def blocks_to_do() -> Iterator[Block]:
            for number, block in enumerate(opened.blocks()):
                if not in_shard(number, self.plan.shard):
                    continue
                order.append(number)
                part = earlier.get(opened.split, number)
                if part is None:
                    yield block
                else:
                    known[number] = part

        self.progress.start(f"measuring {opened.split}", opened.n_images)
        try:
            jobs = min(self.plan.jobs, -(-opened.n_images // measuring.BLOCK))
            executor = self.plan.executor
            fresh = map_in_order(measure, blocks_to_do(), jobs=jobs, executor=executor, describe=first_image)
            yield from self._in_sequence(opened, fresh, order, known, earlier)
        finally:
            self.progress.finish()

    def _in_sequence(
        self,
        opened: OpenSplit,
        fresh: Iterator[BlockMeasure],
        order: list[int],
        known: dict[int, BlockMeasure],
        earlier: Earlier,
    ) -> Iterator[tuple[int, BlockMeasure]]:
        """Fresh and earlier blocks in the order of their numbers; `order` and `known` grow while `fresh` is read."""
        place = 0
        for part in fresh:
            while order[place] in known:
                yield self._told(order[place], known.pop(order[place]))
                place += 1
            earlier.put(opened.split, order[place], part)
            yield self._told(order[place], part)
            place += 1
        for number in order[place:]:
            yield self._told(number, known.pop(number))

    def _told(self, number: int, part: BlockMeasure) -> tuple[int, BlockMeasure]:
        self.progress.advance(len(part.images))
        return number, part

    def _cut(self, opened: OpenSplit, measured: BlockMeasure, folder: Path | None) -> dict[str, Any]:
        """Decide on every image of a split and write what is kept; returns what the manifest says of it."""
        rule, header = self.rule, opened.header
        if rule.pixels.ratio_from == "masks" and not measured.has_masks and measured.images:
            raise DataError("no object has a mask", where=str(header.annotation_path), hint="use --ratio-from boxes")
        found = verdicts(measured.images, rule)
        document = split_document(header, measured, found, rule)
        kept = [image for image, verdict in zip(measured.images, found, strict=True) if verdict == KEPT]
        image_root = str(header.image_root.absolute())
        if folder is not None:
            opened.write_subset({image.image_id for image in kept}, folder, measured.dropped)
            write_ratios(folder / RATIOS, opened.split, measured.images, found)
            image_root = self._images(opened, [image.file_name for image in kept], folder)
        return {"image_root": image_root, **document}

    def _images(self, opened: OpenSplit, names: list[str], folder: Path) -> str:
        """Put the images where the plan says; returns the image root for the manifest."""
        header, plan = opened.header, self.plan
        if plan.images == "none" and plan.pad == NO_PADDING:
            return str(header.image_root.absolute())
        below = opened.format.image_folder(header)
        if plan.pad != NO_PADDING:
            chosen = set(names)
            index = opened.index()
            ids = {record.image_id for record in index.records if record.file_name in chosen}
            write_padded(
                index,
                ids,
                folder / below,
                plan.pad,
                allow_truncated=plan.allow_truncated,
                follow_symlinks=self.source.options.follow_symlinks,
                progress=self.progress,
            )
            return below.as_posix()
        follow = self.source.options.follow_symlinks
        root = header.image_root
        place_images(root, names, folder / below, plan.images, follow_symlinks=follow, progress=self.progress)
        return str(root.absolute()) if plan.images == "symlink" else below.as_posix()

    def _end(self, folder: Path | None, documents: dict[str, dict[str, Any]]) -> SparseReport:
        kept = sum(part["kept"] for part in documents.values())
        if not kept and self.plan.fail_empty:
            raise IntegrityError("no image is kept", hint="raise --max-ratio, or look at the set with: spt stats")
        if not kept:
            self.progress.warn("no image is kept: the set is empty")
        if folder is None:
            return SparseReport(None, {"rule": self.rule.as_document(), "splits": documents})
        return SparseReport(self.out, write_manifest(folder, self.source, self.rule, documents, self._placed()))

    def _end_shard(self, folder: Path | None, splits: dict[str, SplitShard]) -> SparseReport:
        assert self.plan.shard is not None
        if folder is not None:
            write_shard(folder, Shard(SHARD_SCHEMA, *self.plan.shard, splits))
        return SparseReport(self.out if folder else None, {})


@contextmanager
def _kept_for_resume(earlier: Earlier) -> Iterator[None]:
    """Throw the measured blocks away at the end, except when the run was stopped and they are worth resuming."""
    if not isinstance(earlier, Stage):
        yield
        return
    try:
        yield
    except (DataError, UsageError, IntegrityError, ValueError):
        earlier.remove()
        raise
    except BaseException:
        if not earlier.has_work():
            earlier.remove()
        raise
    earlier.remove()
