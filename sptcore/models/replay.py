"""An evaluation captured once in a CUDA graph and replayed for every further batch: no launch, no wait in between.

Possible since blocks in a captured evaluation take the road of `sptcore.ops.attend_selected`, on which nothing asks how
many tokens were selected, whatever becomes of the others. Attention within windows (`attention = window_gather`) has no
such road. Written for a GPU and checked step by step on tensors without data; not run on one yet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sptcore.models.attention.window_gather import WindowGatherAttention
from sptcore.models.backbone import Features
from sptcore.models.vit.model import ViT
from sptcore.ops.attend_selected import without_waiting
from sptcore.ops.windows import OrderBook, orders_kept_in


class Replay:
    """Called as the backbone is, with batches of the one shape it was captured with; whatever they select.

    The Features it returns are the graph's own memory: the next call writes over them. Weights are read where they lay
    at the capture; changed in place they take effect, moved they do not.
    """

    def __init__(self, backbone: nn.Module, images: Tensor, image_sizes: Tensor | None = None) -> None:
        """Capture an evaluation of `images` (B, 3, H, W) on a CUDA device, `image_sizes` as in the backbone's call.

        Raises ValueError for a model in training, one that attends within windows, a ViT with `image_sizes`, or tensors
        on no CUDA device.
        """
        if backbone.training:
            raise ValueError("only an evaluation is replayed: call .eval() first")
        if any(isinstance(one, WindowGatherAttention) for one in backbone.modules()):
            raise ValueError("attention = 'window_gather' asks how many windows there are: no graph can hold it")
        if image_sizes is not None and any(isinstance(one, ViT) for one in backbone.modules()):
            raise ValueError("a ViT asks how large its images are: no graph can hold it, leave image_sizes out")
        if not images.is_cuda:
            raise ValueError(f"a CUDA graph needs tensors on a CUDA device, these are on {images.device}")
        with torch.inference_mode(False):  # what is made in inference mode could not be written over outside of it
            self._images = images.clone()
            self._sizes = None if image_sizes is None else image_sizes.to(images.device, copy=True)
        self._orders: OrderBook = {}
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.no_grad(), without_waiting(), orders_kept_in(self._orders), _autocast_without_cache():
            with torch.cuda.stream(stream):
                for _ in range(2):  # compiles the kernels, fills the book of window orders
                    backbone(self._images, self._sizes)
            torch.cuda.current_stream(images.device).wait_stream(stream)
            with torch.cuda.graph(self._graph, stream=stream):
                self._features: Features = backbone(self._images, self._sizes)

    def __call__(self, images: Tensor, image_sizes: Tensor | None = None) -> Features:
        """The features of another batch. Raises ValueError for another shape, or sizes where there were none."""
        if images.shape != self._images.shape:
            raise ValueError(f"captured for {tuple(self._images.shape)}, got {tuple(images.shape)}")
        if (image_sizes is None) != (self._sizes is None):
            raise ValueError("image_sizes must be given where they were at the capture, and only there")
        self._images.copy_(images)
        if self._sizes is not None and image_sizes is not None:
            self._sizes.copy_(image_sizes)
        self._graph.replay()
        return self._features


def _autocast_without_cache() -> torch.autocast:
    """Autocast as it is, but casting weights anew: its cache lets go of them before a graph has read them last."""
    return torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    )
