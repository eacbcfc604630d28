"""A build in parts: each shard measures its blocks on its own machine, and the merge cuts the set from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from sptcore.data.sparse.measure import BlockMeasure
from sptcore.errors import DataError, IntegrityError

SHARD_FILE = "shard.json"
SHARD_SCHEMA = "spt.sparse-shard/1"


class SplitShard(msgspec.Struct, frozen=True):
    """A split's measured blocks by number, and what they belong to."""

    fingerprint: str
    blocks: dict[str, BlockMeasure]


class Shard(msgspec.Struct, frozen=True):
    """Part `number` (from 1) of `count`: the blocks whose number is number - 1 modulo count."""

    schema: str
    number: int
    count: int
    splits: dict[str, SplitShard]


def in_shard(block: int, shard: tuple[int, int] | None) -> bool:
    """Whether the block belongs to part (number, count); all do when there is one part only."""
    return shard is None or block % shard[1] == shard[0] - 1


def write_shard(folder: Path, shard: Shard) -> None:
    """Write a shard's file into `folder`."""
    (folder / SHARD_FILE).write_bytes(msgspec.json.encode(shard))


class Merged:
    """The blocks of all shards. Raises DataError for a folder that is none, IntegrityError for a set with gaps."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._shards = [_read(folder) for folder in folders]
        counts = {shard.count for shard in self._shards}
        numbers = sorted(shard.number for shard in self._shards)
        if len(counts) != 1 or numbers != list(range(1, counts.pop() + 1)):
            found = ", ".join(f"{shard.number}/{shard.count}" for shard in self._shards)
            raise IntegrityError(f"these are not all parts of one build: {found}")

    def claim(self, split: str, fingerprint: str) -> None:
        """Raise IntegrityError when the parts are of another source or rule."""
        for shard in self._shards:
            if split not in shard.splits or shard.splits[split].fingerprint != fingerprint:
                raise IntegrityError(
                    f"part {shard.number}/{shard.count} was measured on another source or by another rule",
                    hint=f"give the same options as for the parts; its splits: {', '.join(shard.splits)}",
                )

    def get(self, split: str, number: int) -> BlockMeasure | None:
        """The block from the part it belongs to. Raises IntegrityError when it is not there."""
        for shard in self._shards:
            if in_shard(number, (shard.number, shard.count)):
                part = shard.splits[split].blocks.get(str(number))
                if part is not None:
                    return part
        raise IntegrityError(f"block {number} of {split} is in no part")

    def put(self, split: str, number: int, part: BlockMeasure) -> None:
        """Nothing: all blocks are there."""


def _read(folder: Path) -> Shard:
    path = folder / SHARD_FILE
    try:
        shard = msgspec.json.decode(path.read_bytes(), type=Shard)
    except FileNotFoundError as error:
        raise DataError("this folder holds no part of a build", where=str(folder)) from error
    except msgspec.DecodeError as error:
        raise DataError(f"damaged: {error}", where=str(path)) from error
    if shard.schema != SHARD_SCHEMA:
        raise DataError(f"a part this version does not know ({shard.schema})", where=str(path))
    return shard
