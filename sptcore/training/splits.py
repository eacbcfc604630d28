"""The two splits of a run: what it learns, and what it is validated on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from sptcore.data.format import ReadOptions, Source
from sptcore.data.locate import locate, read_split, splits_of
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError
from sptcore.progress import SILENT, Progress
from sptcore.training.config import TrainConfig


@dataclass(frozen=True)
class _Wanted:
    """A split of a set, and the annotation file that is read instead of its own."""

    data: str
    split: str
    ann: str | None

    def source(self, config: TrainConfig) -> Source:
        options = ReadOptions(strict=config.strict, follow_symlinks=config.follow_symlinks, size=config.size)
        return locate(self.data, root=config.root, ann=self.ann, format=config.format, options=options)


def open_splits(config: TrainConfig, progress: Progress = SILENT) -> tuple[DatasetIndex, DatasetIndex]:
    """The records that are learned, and those of the validation; `progress` warns where they are the same images.

    Raises DataError for data that is missing or invalid, with the command that would do where only a split is missing.
    """
    index = _open_training(config)
    val_index = _open_validation(config)
    if _same_images(index, val_index):
        progress.warn(
            "validated on the images that are learned: its figures do not tell what is found in others; "
            "--val-split or --val-data names some"
        )
    return index, val_index


def _open_training(config: TrainConfig) -> DatasetIndex:
    wanted = _Wanted(config.data, config.split, config.ann)
    source = wanted.source(config)
    try:
        return read_split(source, config.split)
    except DataError as error:
        there = splits_of(source)
        if config.split in there or not there:
            raise
        others = [split for split in there if split != there[0]]
        val = next((split for split in (config.val_split, *others, there[0]) if split in there), there[0])
        hint = _command(config, "--split", there[0], *_unless_default(config, val))
        raise DataError(_missing(config.split, there), where=error.where, hint=hint) from error


def _open_validation(config: TrainConfig) -> DatasetIndex:
    """The validation's records; never those of `ann`, on which the model is trained."""
    wanted = _Wanted(config.val_data or config.data, config.val_split, config.val_ann)
    source = wanted.source(config)
    try:
        return read_split(source, config.val_split)
    except DataError as error:
        there = splits_of(source)
        if config.val_split in there or wanted.ann is not None:
            raise
        if config.ann is not None and config.val_data is None:
            hint = "name its annotations: --set val_ann=FILE, or another set: --val-data DATA"
            raise DataError(f"nothing to validate on: {error.message}", where=error.where, hint=hint) from error
        if not there:
            raise
        val = next((split for split in there if split != config.split), there[0])
        hint = f"{_command(config, *_split(config), '--val-split', val)}; or another set: --val-data DATA"
        message = f"nothing to validate on: {_missing(config.val_split, there)}"
        raise DataError(message, where=error.where, hint=hint) from error


def _missing(split: str, there: Sequence[str]) -> str:
    return f"the data set has no split {split!r}, but {', '.join(map(repr, there))}"


def _command(config: TrainConfig, *flags: str) -> str:
    """What a person would type to train on other splits of the same data."""
    named = {"--model": config.model, "--data": config.data, "--root": config.root, "--val-data": config.val_data}
    words = [word for flag, value in named.items() if value is not None for word in (flag, value)]
    return shlex.join(["spt", "train", *words, *flags])


def _split(config: TrainConfig) -> tuple[str, ...]:
    return () if config.split == "train" else ("--split", config.split)


def _unless_default(config: TrainConfig, val: str) -> tuple[str, ...]:
    return () if val == "val" or config.val_data is not None else ("--val-split", val)


def _same_images(index: DatasetIndex, val_index: DatasetIndex) -> bool:
    if index.annotation_path != val_index.annotation_path or len(index.records) != len(val_index.records):
        return False
    pairs = zip(index.records, val_index.records, strict=True)
    return all(one.file_name == other.file_name for one, other in pairs)
