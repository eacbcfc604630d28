"""From settings to parts: classes, masks, strides."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.data.locate import open_index
from sptcore.errors import DataError, IntegrityError, UsageError
from sptcore.labels.build import build_labels
from sptcore.models.variants import backbone_config
from sptcore.progress import Silent
from sptcore.runs import new_run
from sptcore.training.config import TrainConfig
from sptcore.training.loop import check_resumable
from sptcore.training.prepare import label_strides, open_judging_labels, prepare
from tests.support.miniatures import coco_document, mini_coco
from tests.support.samples import samples_root
from tests.support.training import mini_data, tiny_config


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def test_masks_are_learned_where_the_data_has_them(tmp_path: Path) -> None:
    listener = Listener()
    prepared = prepare(tiny_config(mini_coco(tmp_path / "set")), listener)
    assert prepared.spec.masks
    assert prepared.spec.categories == ((0, "cup"), (3, "café ☕"))
    assert any("Mask R-CNN" in line for line in listener.lines)
    assert prepared.train.strides == (8, 16, 32)


def test_boxes_only_is_faster_rcnn_and_is_said() -> None:
    listener = Listener()
    prepared = prepare(tiny_config(samples_root("pv-thermal")), listener)
    assert not prepared.spec.masks
    assert [category_id for category_id, _ in prepared.spec.categories] == [0, 1, 2]
    assert any("Faster R-CNN" in line for line in listener.lines)


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"] = []
    with pytest.raises(DataError, match="no image with an object to learn from"):
        prepare(tiny_config(mini_coco(tmp_path / "set", document)))


@pytest.mark.parametrize(
    ("blocks", "strides"), [(0, ()), (2, (16, 32)), (4, (8, 16, 32)), (6, (4, 8, 16, 32)), (8, (4, 8, 16, 32))]
)
def test_labels_are_looked_up_where_scores_are_supervised(blocks: int, strides: tuple[int, ...]) -> None:
    assert label_strides(backbone_config("spt-nano", num_spa_blocks=blocks)) == strides


def test_another_annotation_file_is_for_the_training_alone(tmp_path: Path) -> None:
    """Validating on what was trained on would tell nothing, and nobody would notice."""
    root, other = mini_data(tmp_path / "set"), mini_data(tmp_path / "other")
    own, theirs = (one / "annotations" / "instances_val2017.json" for one in (root, other))
    trained = root / "annotations" / "instances_train2017.json"
    for changes, expected in (({}, own), ({"val_data": str(other)}, theirs), ({"val_ann": str(theirs)}, theirs)):
        prepared = prepare(tiny_config(root, ann=str(trained), **changes))
        assert prepared.val_index.annotation_path == expected
    own.unlink()
    with pytest.raises(DataError, match="nothing to validate on") as caught:
        prepare(tiny_config(root, ann=str(trained)))
    assert "val_ann" in str(caught.value.hint)


def test_a_resumed_run_keeps_its_labels_wherever_their_file_lies(tmp_path: Path) -> None:
    """Labels of another kind change what is learned; the same ones under another name do not."""
    root = mini_data(tmp_path / "set")
    index = open_index(root, "train")
    ours, moved, other = (tmp_path / name for name in ("ours.h5", "moved.h5", "boxes.h5"))
    build_labels(index, ours)
    build_labels(index, moved)
    build_labels(index, other, source="boxes")

    def resumes(was: str, now: str) -> bool:
        run = new_run("train", "tiny", folder=tmp_path / f"{Path(was).stem}-{Path(now).stem}")
        (run.home / "config.toml").write_text(tiny_config(root, labels=was).to_toml(), encoding="utf-8")
        try:
            check_resumable(tiny_config(root, labels=now), run)
        except UsageError as error:
            return "labels was" not in str(error)
        return True

    assert resumes("auto", "auto")
    assert not resumes("boxes", "masks")
    assert not resumes("auto", str(ours))
    assert resumes(str(ours), str(moved))
    assert not resumes(str(ours), str(other))
    assert resumes(str(tmp_path / "gone.h5"), str(other))


def two_splits(root: Path) -> Path:
    """A set whose splits are of different files; those of the miniature are the same byte for byte."""
    mini_data(root)
    with (root / "annotations" / "instances_val2017.json").open("a") as stream:
        stream.write("\n")
    return root


def labels_of(root: Path, listener: Listener, **changes: str) -> tuple[Path, str]:
    """The file of the validation's labels, and what was said of them."""
    labels = prepare(tiny_config(root, **changes), listener).val.labels
    assert labels is not None
    said = [line for line in listener.lines if line.startswith("labels of the validation")]
    return labels.path, said[-1] if said else ""


def test_validation_takes_labels_of_its_own_images_where_files_hold_them(tmp_path: Path) -> None:
    """The file itself, or the one beside it that `make-labels --out` wrote for the split, else the annotations."""
    root = two_splits(tmp_path / "set")
    train, val = tmp_path / "labels-train.h5", tmp_path / "labels-val.h5"
    build_labels(open_index(root, "train"), train, source="boxes")
    path, said = labels_of(root, Listener(), labels=str(train))
    assert path not in (train, val)
    assert said == f"labels of the validation: made from the annotations, as {train} does not hold its images"
    build_labels(open_index(root, "val"), val, source="boxes")
    assert labels_of(root, Listener(), labels=str(train)) == (val, f"labels of the validation: {val}")
    assert labels_of(root, Listener(), labels=str(train), val_split="train")[0] == train
    elsewhere = tmp_path / "elsewhere.h5"
    build_labels(open_index(root, "val"), elsewhere)
    assert labels_of(root, Listener(), labels=str(train), val_labels=str(elsewhere)) == (elsewhere, "")
    assert labels_of(root, Listener(), val_labels=str(elsewhere)) == (elsewhere, "")


def test_the_named_file_comes_before_the_one_beside_it(tmp_path: Path) -> None:
    """Where both hold the validation's images, as when it has those of the training."""
    root, train, val = mini_data(tmp_path / "set"), tmp_path / "labels-train.h5", tmp_path / "labels-val.h5"
    build_labels(open_index(root, "train"), train)
    build_labels(open_index(root, "val"), val)
    assert labels_of(root, Listener(), labels=str(train))[0] == train
    assert labels_of(root, Listener(), labels=str(val))[0] == val


def test_labels_made_for_the_validation_follow_the_rule_of_the_file(tmp_path: Path) -> None:
    root, train = two_splits(tmp_path / "set"), tmp_path / "mine.h5"
    build_labels(open_index(root, "train"), train, source="boxes")
    made = prepare(tiny_config(root, labels=str(train))).val.labels
    assert made is not None
    assert made.header.params["source"] == "boxes"


def test_a_run_is_judged_by_the_labels_of_its_own_validation(tmp_path: Path) -> None:
    """`auto` means the run's: `val_labels` on its validation split, its `labels` elsewhere, by the rule where gone."""
    root, train, mine = two_splits(tmp_path / "set"), tmp_path / "train.h5", tmp_path / "mine.h5"
    build_labels(open_index(root, "train"), train, source="boxes")
    build_labels(open_index(root, "val"), mine, source="boxes")
    own = tiny_config(root, labels=str(train), val_labels=str(mine))

    def judged(split: str, labels: str = "auto", own: TrainConfig | None = own) -> tuple[str, str, str]:
        listener = Listener()
        store = open_judging_labels(labels, own, open_index(root, split), listener)
        return store.path.name, store.header.params["source"], " ".join(listener.lines)

    assert judged("val")[:2] == ("mine.h5", "boxes")
    assert judged("train")[:2] == ("train.h5", "boxes")
    assert judged("val", "masks")[1] == "masks"
    assert judged("val", own=None)[1] == "auto"
    by_rule = own.model_copy(update={"labels": "masks", "val_labels": "boxes"})
    assert [judged(split, own=by_rule)[1] for split in ("val", "train")] == ["boxes", "masks"]
    build_labels(open_index(root, "train"), mine, source="boxes", force=True)
    name, source, said = judged("val")
    assert (name != "mine.h5", source, "as " + str(mine) + " does not hold" in said) == (True, "boxes", True), said
    mine.unlink()
    assert judged("val")[1:] == ("auto", f"labels: made from the annotations, as the run's own are gone: {mine}")


def test_labels_that_are_not_those_of_the_validation_are_refused_when_named(tmp_path: Path) -> None:
    root, train, val = two_splits(tmp_path / "set"), tmp_path / "labels-train.h5", tmp_path / "labels-val.h5"
    build_labels(open_index(root, "train"), train)
    with pytest.raises(IntegrityError, match="another annotation file"):
        prepare(tiny_config(root, val_labels=str(train)))
    val.write_bytes(train.read_bytes()[:-100])  # a damaged one is not passed over
    with pytest.raises(IntegrityError):
        prepare(tiny_config(root, labels=str(train)))


class Warned(Listener):
    warn = Listener.note


@pytest.mark.parametrize(
    ("left", "changes", "flags"),
    [
        ("val", {}, "--split val"),
        ("test", {}, "--split test --val-split test"),
        ("train", {}, "--val-split train; or another set: --val-data DATA"),
        ("train", {"split": "dev"}, "--split train --val-split train"),
    ],
)
def test_a_split_that_is_missing_is_told_with_the_command_that_works(
    tmp_path: Path, left: str, changes: dict[str, str], flags: str
) -> None:
    root = mini_data(tmp_path / "a set")
    for path in (root / "annotations").iterdir():
        path.unlink() if left not in path.name and left != "test" else None
    if left == "test":
        for split in ("train", "val"):
            (root / "annotations" / f"instances_{split}2017.json").rename(
                root / "annotations" / "instances_test2017.json"
            )
        (root / "val2017").rename(root / "test2017")
    with pytest.raises(DataError, match=f"has no split '[a-z]+', but '{left}'") as caught:
        prepare(tiny_config(root, **changes))
    assert caught.value.hint == f"spt train --model spt-nano --data '{root}' {flags}"
    words = flags.partition(";")[0].replace("--", "").replace("-", "_").split()
    listener = Warned()
    prepare(tiny_config(root, **dict(zip(words[::2], words[1::2], strict=True))), listener)
    assert any("validated on the images that are learned" in line for line in listener.lines)


def test_two_splits_are_not_called_the_same_images(tmp_path: Path) -> None:
    listener = Warned()
    prepare(tiny_config(mini_data(tmp_path / "set")), listener)
    assert not any("images that are learned" in line for line in listener.lines)
