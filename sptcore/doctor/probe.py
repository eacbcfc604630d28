"""The child process of `diagnose`: try each library, write one line of facts each, whatever happens to the next.

Run as `python -m sptcore.doctor.probe [--gpu]`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

MARK = "SPT-FACT "
Facts = dict[str, object]


def h5py_facts() -> Facts:
    """Versions of h5py and HDF5, and a file in memory written and read."""
    import h5py
    import numpy as np

    with h5py.File("probe", "w", driver="core", backing_store=False) as store:
        written = store.create_dataset("x", data=np.arange(5, dtype=np.uint8))
        read = np.asarray(written[...]).tolist()
    return {"version": h5py.__version__, "hdf5": h5py.version.hdf5_version, "works": read == [0, 1, 2, 3, 4]}


def cv2_facts() -> Facts:
    """Version of OpenCV, and a PNG encoded and decoded."""
    import cv2
    import numpy as np

    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    decoded = cv2.imdecode(cv2.imencode(".png", image)[1], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return {"version": cv2.__version__, "works": decoded is not None and bool((decoded == image).all())}


def pycocotools_facts() -> Facts:
    """A square of known size, rasterised."""
    from pycocotools import mask

    square: Any = [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]]
    areas: Any = mask.area(mask.frPyObjects(square, 8, 8))
    return {"version": metadata.version("pycocotools"), "works": [int(area) for area in areas] == [16]}


def torch_facts() -> Facts:
    """Version, build and devices of torch, and a product computed."""
    import torch

    cuda = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else []
    return {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "cuda": cuda,
        "devices": names,
        "threads": torch.get_num_threads(),
        "works": (torch.ones(2, 3) @ torch.ones(3, 2)).tolist() == [[3.0, 3.0], [3.0, 3.0]],
    }


def torchvision_facts() -> Facts:
    """Version of torchvision, and non-maximum suppression, which needs its compiled operators."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9], [8.0, 8.0, 9.0, 9.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    return {"version": torchvision.__version__, "works": kept.tolist() == [0, 2]}


def counter_facts() -> Facts:
    """FLOPs that torch counts a MAC, whether it counts the CPU's fused attention, and whether our counts are right."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sptcore.profiling.counted import check_counter

    with FlopCounterMode(display=False) as product:
        torch.matmul(torch.ones(8, 16), torch.ones(16, 4))
    heads = torch.ones(1, 2, 16, 8)
    with FlopCounterMode(display=False) as attention:
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    check_counter()
    return {
        "flops_per_mac": product.get_total_flops() / (8 * 16 * 4),
        "attention_counted": attention.get_total_flops() == 2 * 2 * 2 * 16 * 16 * 8,
    }


def gpu_facts() -> Facts:
    """Our kernels, packed attention backward too, and a matrix product, on the GPU against the CPU in float64."""
    import torch

    if not torch.cuda.is_available():
        return {"error": "torch sees no GPU"}
    from sptcore.doctor.gpu import run_on_gpu

    return run_on_gpu(torch.device("cuda"))


SECTIONS: dict[str, Callable[[], Facts]] = {
    "h5py": h5py_facts,
    "pycocotools": pycocotools_facts,
    "cv2": cv2_facts,
    "torch": torch_facts,
    "torchvision": torchvision_facts,
    "counter": counter_facts,
}


def main() -> None:
    """Try every section and write its facts, or the error it ended with."""
    sections = SECTIONS | ({"gpu": gpu_facts} if "--gpu" in sys.argv else {})
    for name, section in sections.items():
        try:
            facts = section()
        except Exception as error:  # this is what the probe is for: any failure of a library is a fact
            facts = {"error": f"{type(error).__name__}: {error}".strip()}
        os.write(1, f"\n{MARK}{json.dumps({'name': name, **facts})}\n".encode())


if __name__ == "__main__":
    main()
