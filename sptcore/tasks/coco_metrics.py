"""Average precision as COCO defines it: pycocotools is the reference, faster-coco-eval gives the same digits sooner."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sptcore.tasks.base import Scores

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve figures in COCO's order."""

BACKENDS = ("faster", "pycocotools")


def coco_scores(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    kind: str = "bbox",
    backend: str = "faster",
    image_ids: Sequence[int] | None = None,
) -> Scores:
    """Score COCO `results` against a COCO ground truth; `image_ids` narrows both to some images.

    Annotation ids of `truth` must start at 1: COCO takes id 0 for "unmatched". Raises ValueError for another kind or
    back end, or an annotation id below 1.
    """
    if kind not in ("bbox", "segm") or backend not in BACKENDS:
        raise ValueError(f"no scores of kind {kind!r} by back end {backend!r}")
    if any(annotation["id"] < 1 for annotation in truth["annotations"]):
        raise ValueError("annotation ids must start at 1")
    coco_class, eval_class = _backend(backend)
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = _coco_set(coco_class, truth, [dict(annotation) for annotation in truth["annotations"]])
        found_set = _coco_set(coco_class, truth, _as_annotations(results, kind))
        evaluation = eval_class(truth_set, found_set, kind)
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = {name: float(value) for name, value in zip(METRICS, evaluation.stats, strict=False)}
    return Scores(kind, figures, _per_class(evaluation))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) of zeros and ones, uint8 or bool, as COCO's compressed run lengths with counts as text."""
    from pycocotools import mask as coco_mask

    rle: Any = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def mask_area(rle: Mapping[str, Any]) -> float:
    """Pixels of a run-length encoded mask."""
    from pycocotools import mask as coco_mask

    area: Any = coco_mask.area(rle)  # type: ignore[arg-type]
    return float(area)


def _backend(name: str) -> tuple[Any, Any]:
    if name == "faster":
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def _coco_set(coco_class: Any, truth: Mapping[str, Any], annotations: list[dict[str, Any]]) -> Any:
    content = coco_class()
    content.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
    content.createIndex()
    return content


def _as_annotations(results: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Results as annotations with an id and an area: that of the box for boxes, of the mask for masks."""
    from pycocotools import mask as coco_mask

    annotations = [dict(result) for result in results]
    if kind == "segm":
        for annotation in annotations:  # one at a time: pycocotools 2.0.11 fails on more than 255 masks with numpy 2
            mask = annotation["segmentation"]
            annotation |= {"area": mask_area(mask), "bbox": coco_mask.toBbox(mask).tolist()}
    for number, annotation in enumerate(annotations, start=1):
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        annotation |= {"id": number, "iscrowd": 0}
    return annotations


def _per_class(evaluation: Any) -> dict[int, float]:
    """AP of each category: mean precision over thresholds and recalls, all areas; -1 without objects."""
    precision = np.asarray(evaluation.eval["precision"])  # (thresholds, recalls, classes, areas, detections)
    scores = {}
    for number, category_id in enumerate(evaluation.params.catIds):
        values = precision[:, :, number, 0, -1]
        values = values[values > -1]
        scores[int(category_id)] = float(values.mean()) if values.size else -1.0
    return scores
