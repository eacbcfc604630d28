"""The folder of an unfinished build: one verified file a block, so that a killed build goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sptcore.data.records import DatasetIndex, ImageRecord
from sptcore.errors import IntegrityError, SptError
from sptcore.files import as_fault, write_atomically
from sptcore.labels.build.crew import Block
from sptcore.labels.build.recipe import Recipe, image_set_digest, repaired_images, report_of
from sptcore.labels.store import LabelStore
from sptcore.progress import Progress

BLOCK = 4096  # images
_KEY = "build.json"


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `total`."""

    number: int = 1
    total: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def of(self, records: tuple[ImageRecord, ...]) -> tuple[ImageRecord, ...]:
        """This shard's images: a run of them, all shards in order giving all images."""
        count = len(records)
        return records[(self.number - 1) * count // self.total : self.number * count // self.total]


WHOLE = Shard()


class Staging:
    """The staged blocks of one build of `target`."""

    def __init__(self, target: Path, index: DatasetIndex, recipe: Recipe, shard: Shard = WHOLE) -> None:
        self.folder = target.with_name(f".{target.name}.spt-parts")
        self.header = recipe.header(index, part=str(shard))
        self._report = report_of(index)
        self._repaired = repaired_images(index)
        self._records = shard.of(index.records)
        starts = range(0, len(self._records), BLOCK) or [0]
        self.blocks = [self._block(number, start, len(starts)) for number, start in enumerate(starts)]
        key = {"header": self.header.attributes(len(self._records)), "images": image_set_digest(index), "block": BLOCK}
        self._key = json.dumps(key, sort_keys=True, indent=1).encode()

    def _block(self, number: int, start: int, total: int) -> Block:
        records = self._records[start : start + BLOCK]
        path = self.folder / f"block-{number + 1:05d}-of-{total:05d}.h5"
        return Block(path, self.header, self._report, records, self._repaired.intersection(r.image_id for r in records))

    @property
    def report(self) -> bytes:
        """What the reader left out, as the store keeps it."""
        return self._report

    def begin(self, *, resume: bool, progress: Progress) -> list[Block]:
        """The blocks still to be built. Without `resume` earlier ones are thrown away.

        Raises IntegrityError when what is there belongs to another source or other settings.
        """
        if not resume or not self.folder.exists():
            self.discard()
            return self._start()
        key = self.folder / _KEY
        if not key.is_file():  # killed in its first moment
            return self._start()
        if key.read_bytes() != self._key:
            message = "the unfinished build is of another source or of other settings: it cannot be resumed"
            raise IntegrityError(message, where=str(self.folder), hint="start over, without --resume")
        for leftover in self.folder.glob(".spt-tmp-*"):
            leftover.unlink(missing_ok=True)
        missing = [block for block in self.blocks if not self._is_good(block)]
        progress.note(f"resuming: {len(self.blocks) - len(missing)} of {len(self.blocks)} blocks are there")
        return missing

    def can_resume(self) -> bool:
        """Whether an unfinished build of the same source and settings is there."""
        key = self.folder / _KEY
        return key.is_file() and key.read_bytes() == self._key

    def _start(self) -> list[Block]:
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise as_fault(error, self.folder) from error
        write_atomically(self.folder / _KEY, self._key)
        return self.blocks

    def _is_good(self, block: Block) -> bool:
        try:
            with LabelStore(block.path) as store:
                same = store.header == block.header and store.report_bytes == block.report
                ids = store.image_ids.tolist() == [record.image_id for record in block.records]
                store.verify()
                return same and ids
        except SptError:
            return False

    @contextmanager
    def stores(self) -> Iterator[list[LabelStore]]:
        """Every staged block, in order."""
        stores = [LabelStore(block.path) for block in self.blocks]
        try:
            yield stores
        finally:
            for store in stores:
                store.close()

    def has_work(self) -> bool:
        """Whether a block is there that a resumed build could use."""
        return self.folder.is_dir() and any(block.path.exists() for block in self.blocks)

    def discard(self) -> None:
        """Throw the staged blocks away."""
        if self.folder.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
