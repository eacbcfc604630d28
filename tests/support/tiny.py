"""Tiny ImageNet with two classes and a few images, built in code."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

WNIDS = ("n02000000", "n01000000")


def make_tiny(root: Path, *, per_class: int = 2, side: int = 64) -> Path:
    """Write the official layout: image k of class c is grey with value 10 * c + k, its box [c, k, c + 9, k + 19]."""
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (root / "words.txt").write_text("n01000000\tcrane, big bird\nn02000000\tcrane\nn03000000\tother\n")
    val = []
    for c, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        lines = []
        for k in range(per_class):
            Image.new("L" if k else "RGB", (side, side), (10 * c + k) if k else (10 * c,) * 3).save(
                folder / f"{wnid}_{k}.JPEG"
            )
            lines.append(f"{wnid}_{k}.JPEG\t{c}\t{k}\t{c + 9}\t{k + 19}\n")
        (folder.parent / f"{wnid}_boxes.txt").write_text("".join(lines))
        Image.new("RGB", (side, side)).save(root / "val" / "images" / f"val_{c}.JPEG")
        val.append(f"val_{c}.JPEG\t{wnid}\t0\t0\t{side - 1}\t{side - 1}\n")
    (root / "val" / "val_annotations.txt").write_text("".join(val))
    return root
