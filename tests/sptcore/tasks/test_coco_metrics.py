"""COCO's figures: both back ends agree, and the pitfalls of ids and areas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sptcore.tasks.coco_metrics import METRICS, coco_scores, encode_mask, mask_area


def random_case(
    seed: int, images: int = 12, classes: tuple[int, ...] = (0, 3, 90)
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A ground truth and results near it: some hits, some misses, some doubles, crowds and empty images."""
    generator = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": n, "width": 200, "height": 150} for n in range(images)],
        "categories": [{"id": c, "name": str(c)} for c in classes],
        "annotations": [],
    }
    results = []
    for image_id in range(images):
        for _ in range(int(generator.integers(0, 6))):
            x, y = generator.integers(0, 120), generator.integers(0, 90)
            w, h = generator.integers(3, 80), generator.integers(3, 60)
            category = int(generator.choice(classes))
            truth["annotations"].append(
                _object(len(truth["annotations"]) + 1, image_id, category, x, y, w, h, generator.random() < 0.1)
            )
            for _ in range(int(generator.integers(0, 3))):
                shift = generator.integers(-5, 6, 4)
                box = [
                    max(0, int(x + shift[0])),
                    max(0, int(y + shift[1])),
                    max(2, int(w + shift[2])),
                    max(2, int(h + shift[3])),
                ]
                wrong = generator.random() < 0.2
                results.append(
                    _result(
                        image_id, int(generator.choice(classes)) if wrong else category, box, float(generator.random())
                    )
                )
    return truth, results


def _mask(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    mask = np.zeros((150, 200), dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    mask[y : y + h // 2, x : x + w // 2] = 0
    return encode_mask(mask)


def _object(number: int, image_id: int, category: int, x: int, y: int, w: int, h: int, crowd: bool) -> dict[str, Any]:
    mask = _mask(x, y, w, h)
    return {
        "id": number, "image_id": image_id, "category_id": category, "bbox": [int(x), int(y), int(w), int(h)],
        "area": mask_area(mask), "segmentation": mask, "iscrowd": int(crowd),
    }  # fmt: skip


def _result(image_id: int, category: int, box: list[int], score: float) -> dict[str, Any]:
    x, y, w, h = box
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": box,
        "score": score,
        "segmentation": _mask(x, y, w, h),
    }


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_both_back_ends_give_the_same_digits(seed: int, kind: str) -> None:
    truth, results = random_case(seed)
    reference = coco_scores(truth, results, kind=kind, backend="pycocotools")
    fast = coco_scores(truth, results, kind=kind, backend="faster")
    assert tuple(reference.figures) == METRICS
    assert fast.figures == pytest.approx(reference.figures, abs=1e-12)
    assert fast.per_class == pytest.approx(reference.per_class, abs=1e-12)
    assert 0 < reference.figures["AP"] < 1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_figures_are_pycocotools_own(kind: str, tmp_path: Any) -> None:
    """Against pycocotools driven from files, as its users do."""
    import json

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = random_case(7)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    kept = [{k: v for k, v in one.items() if k != ("segmentation" if kind == "bbox" else "bbox")} for one in results]
    (tmp_path / "found.json").write_text(json.dumps(kept))
    reference = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(reference, reference.loadRes(str(tmp_path / "found.json")), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = coco_scores(truth, results, kind=kind, backend="pycocotools")
    assert list(ours.figures.values()) == evaluation.stats.tolist()


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_perfect_results_none_and_no_objects(backend: str) -> None:
    truth, _ = random_case(1)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    perfect = [{**annotation, "score": 0.9} for annotation in truth["annotations"]]
    assert coco_scores(truth, perfect, backend=backend).figures["AP"] == pytest.approx(1.0)
    assert coco_scores(truth, [], backend=backend).figures["AP"] == 0
    assert coco_scores({**truth, "annotations": []}, perfect, backend=backend).figures["AP"] == -1


def test_some_images_only() -> None:
    truth, results = random_case(2)
    chosen = [0, 1, 2, 3]
    cut = {
        **truth,
        "images": truth["images"][:4],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in chosen],
    }
    expected = coco_scores(cut, [one for one in results if one["image_id"] in chosen])
    assert coco_scores(truth, results, image_ids=chosen) == expected


def test_annotation_id_zero_is_refused_because_coco_would_not_count_it() -> None:
    truth, _ = random_case(3)
    first = truth["annotations"][0]
    first["iscrowd"] = 0
    one = {**truth, "annotations": [{**first, "id": 0}]}
    with pytest.raises(ValueError, match="start at 1"):
        coco_scores(one, [])
    with pytest.raises(ValueError, match="kind"):
        coco_scores(truth, [], kind="keypoints")


def test_more_masks_than_a_byte_counts() -> None:
    truth, results = random_case(5)
    many = [{**results[n % len(results)], "score": 1 / (n + 1)} for n in range(300)]
    assert coco_scores(truth, many, kind="segm").figures["AP"] >= 0
