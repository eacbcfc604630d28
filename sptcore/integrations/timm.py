"""Our models under timm's names: import this module, then `timm.create_model("spt_t", num_classes=10)`.

Every variant but those that select by labels is registered, "-" in its name turned into "_". Selections:
`model.classify(images)` gives logits, Features and selections of one pass; `features.backbone(images)` the Features
behind a model made with `features_only=True`. Decision: `docs/decisions/0017-timm.md`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.models.backbone import Features
from sptcore.models.classifier import Classified, mean_of_tokens
from sptcore.models.config import STRIDES
from sptcore.models.layers import init_weights
from sptcore.models.recompute import recompute_blocks
from sptcore.models.variants import VARIANTS, AnyBackbone, AnyBackboneConfig, backbone_config, build_backbone
from sptcore.models.vit.config import PATCH_SIZE
from sptcore.tasks.pixels import IMAGE_MEAN, IMAGE_STD
from sptcore.training.optim import param_groups

try:
    from timm.models import FeatureInfo, build_model_with_cfg, generate_default_cfgs, register_model
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "timm":
        raise
    raise ImportError("timm is not installed; mend it with: pip install 'spt[timm]'", name="timm") from error

_STEM = "patch_embed.proj.weight"
_POOLING = {False: ("avg", ""), True: ("token", "")}  # by whether the body is plain; the first is the default

NAMES = {name.replace("-", "_"): name for name, config in VARIANTS.items() if config.selector != "ground_truth"}
"""timm's name -> ours. Ground truth needs selection labels with every image, which timm does not pass."""

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": None if VARIANTS[ours].is_plain else (7, 7),
            "mean": tuple(round(value / 255, 6) for value in IMAGE_MEAN),
            "std": tuple(round(value / 255, 6) for value in IMAGE_STD),
            "first_conv": f"backbone.{_STEM.removesuffix('.weight')}",
            "classifier": "head",
            "license": "apache-2.0",
        }
        for name, ours in NAMES.items()
    }
)


class _Bodied(nn.Module):
    """What a classifier and a feature extractor share: a backbone, and timm's questions about it."""

    def __init__(self, backbone: AnyBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_load_state_dict_pre_hook(_before_loading)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks again in the backward pass instead of keeping what lies inside them."""
        recompute_blocks(self.backbone, enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that our own optimiser does not decay: norms, position biases, gate biases."""
        groups = param_groups(self, weight_decay=1.0, gate_lr_mult=1.0)
        return {name for group in groups if not group["weight_decay"] for name in group["names"]}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Expressions that sort parameters by depth, for layer-wise learning rates; a plain body has one stage."""
        if self.backbone.config.is_plain:
            return {
                "stem": r"^backbone\.(?:patch_embed|cls_token|pos_embed)",
                "blocks": [(r"^backbone\.blocks\.(\d+)", None), (r"^backbone\.(?:norm|pruning)\.", (99999,))],
            }
        fine = [
            (r"^backbone\.stages\.(\d+)\.downsample", (0,)),
            (r"^backbone\.stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^backbone\.(?:norms|gate)\.", (99999,)),
        ]
        return {"stem": r"^backbone\.patch_embed", "blocks": r"^backbone\.stages\.(\d+)" if coarse else fine}


class TimmClassifier(_Bodied):
    """A backbone with timm's head: pooling, dropout, one linear layer; weights are named as a classifier's of ours.

    `variant` is a name of VARIANTS. `global_pool`: avg (a ViT: token), or "" for no pooling, with `num_classes` 0 only.
    `img_size` sets the grid that a ViT's positions are learned for; every model takes images of any size. `settings`
    replace those of the backbone's config. Raises ValueError for another pooling, UsageError for an unknown setting.
    """

    def __init__(
        self,
        variant: str,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        img_size: int | Sequence[int] | None = None,
        out_stages: tuple[int, ...] = (4,),
        **settings: Any,
    ) -> None:
        config = _config(variant, drop_path_rate, img_size, settings).with_outputs(out_stages)
        super().__init__(_with_channels(build_backbone(config), in_chans))
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.num_features = self.head_hidden_size = config.channels[3]
        self.feature_info = _feature_info(config)
        self.global_pool = _POOLING[config.is_plain][0]
        self.head: nn.Module = nn.Identity()
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """The linear layer, or Identity without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh linear layer for `num_classes`, none for 0. Raises ValueError as the class does."""
        pooling = self.global_pool if global_pool is None else global_pool
        choices = _POOLING[self.backbone.config.is_plain]
        if pooling not in choices or (num_classes and not pooling):
            raise ValueError(f"global_pool = {pooling!r}: choose from {choices}, '' with num_classes = 0 only")
        self.num_classes, self.global_pool = num_classes, pooling
        if num_classes:
            like = next(self.backbone.parameters())
            self.head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            self.head.apply(init_weights)
        else:
            self.head = nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> stage 4's normed map (B, C, h, w), or a ViT's tokens (B, 1 + N, C)."""
        return _last(self.backbone(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` gives -> logits (B, classes), or with `pre_logits` the pooled vector (B, C)."""
        if self.global_pool == "token":
            x = x[:, 0]
        elif self.global_pool == "avg":
            x = mean_of_tokens(x)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> logits (B, classes)."""
        return self.forward_head(self.forward_features(x))

    def classify(
        self,
        images: Tensor,
        image_sizes: Tensor | None = None,
        select_labels: dict[int, Tensor] | None = None,
    ) -> Classified:
        """One pass of the backbone -> the same logits with Features: selections, and losses of its own in training.

        Arguments as the backbone's forward has them. Batch padding enters neither selection nor mean.
        """
        features = self.backbone(images, image_sizes, select_labels)
        if self.global_pool == "avg" and image_sizes is not None:
            pooled = mean_of_tokens(features.maps["3"], image_sizes)
            return Classified(self.head(F.dropout(pooled, self.drop_rate, self.training)), features)
        return Classified(self.forward_head(_last(features)), features)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps (B, C, H, W) of the stages `indices`, from 0 (an int: the last so many), and `forward_features`.

        `norm`: normed where the model has that stage's norm, which a classifier has for the last alone; a ViT has one
        map, normed. `stop_early` saves nothing here. Raises ValueError for an index that is not there, or for another
        format than NCHW.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt = {output_fmt!r}; there is NCHW")
        taken = _indices(indices, len(self.feature_info))
        features, maps = self._walk(x, norm)
        chosen = [maps[index] for index in taken]
        return chosen if intermediates_only else (_last(features), chosen)

    def _walk(self, x: Tensor, norm: bool) -> tuple[Features, list[Tensor]]:
        """One pass, and the map of every stage; a stage says its own before the norm, a ViT has its normed one."""
        raw: list[Tensor] = []
        stages = getattr(self.backbone, "stages", ())
        handles = [stage.register_forward_hook(lambda *call: raw.append(call[-1])) for stage in stages]
        try:
            features = self.backbone(x)
        finally:
            for handle in handles:
                handle.remove()
        if not raw:
            return features, list(features.maps.values())
        maps = [one.permute(0, 3, 1, 2) for one in raw]  # (B, H, W, C) -> (B, C, H, W)
        return features, [features.maps.get(str(index), one) if norm else one for index, one in enumerate(maps)]


class TimmFeatures(_Bodied):
    """The normed maps (B, C, H, W) of the backbone, finest first: what `features_only=True` makes of a TimmClassifier.

    `feature_info` tells their channels and reductions, `backbone(images)` gives the Features with selections.
    """

    def __init__(self, model: TimmClassifier, out_indices: Sequence[int]) -> None:
        super().__init__(model.backbone)
        self.feature_info = FeatureInfo(model.feature_info, tuple(out_indices))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) -> one map a chosen stage."""
        return list(self.backbone(x).maps.values())


def fitted(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict of ours, whatever the task it learned, as `model` of this module names it.

    A classifier's keeps its head where the model has one; of a detector's or a bare backbone's the backbone is taken.
    Stage norms that the model does not use go, those it lacks stay fresh with a warning; anything else is left for the
    strict comparison. A state dict without our stem comes back unchanged.
    """
    stem = next((key for key in state_dict if key == _STEM or key.endswith(f".{_STEM}")), None)
    if stem is None:
        return dict(state_dict)
    prefix, own = stem.removesuffix(_STEM), model.state_dict()
    body = {f"backbone.{key[len(prefix) :]}": one for key, one in state_dict.items() if key.startswith(prefix)}
    rest = {key: one for key, one in state_dict.items() if prefix == "backbone." and not key.startswith(prefix)}
    if not any(key.startswith("head.") for key in own):
        rest = {key: one for key, one in rest.items() if not key.startswith("head.")}
    norms = {key for key in {*own, *body} if key.startswith("backbone.norms.")}
    fresh = sorted(norms & set(own) - set(body))
    if fresh:
        warnings.warn(f"the weights lack norms of stages, which stay fresh: {', '.join(fresh)}", stacklevel=3)
    kept = {key: one for key, one in body.items() if key in own or key not in norms}
    return {**kept, **rest, **{key: own[key] for key in fresh}}


def _before_loading(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """`load_state_dict` of the model itself takes weights of every task; inside a larger model it takes its own."""
    if not prefix:
        ours = fitted(state_dict, model)
        state_dict.clear()
        state_dict.update(ours)


def _config(
    variant: str, drop_path_rate: float | None, img_size: int | Sequence[int] | None, settings: dict[str, Any]
) -> AnyBackboneConfig:
    if drop_path_rate is not None:
        settings = {**settings, "drop_path": drop_path_rate}
    config = backbone_config(variant, **settings)
    if img_size is None or not config.is_plain:
        return config
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return replace(cast(Any, config), position_grid=(-(-height // PATCH_SIZE), -(-width // PATCH_SIZE)))


def _with_channels(backbone: AnyBackbone, channels: int) -> AnyBackbone:
    """The backbone with a stem for images of so many channels; three are left as they are."""
    old = backbone.patch_embed.proj
    if channels != old.in_channels:
        backbone.patch_embed.proj = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride)  # type: ignore[arg-type]
    return backbone


def _feature_info(config: AnyBackboneConfig) -> list[dict[str, Any]]:
    """timm's description of the maps; a plain body has one."""
    if config.is_plain:
        return [{"num_chs": config.channels[3], "reduction": PATCH_SIZE, "module": "backbone.norm"}]
    return [
        {"num_chs": config.channels[stage], "reduction": stride, "module": f"backbone.stages.{stage}"}
        for stage, stride in enumerate(STRIDES)
    ]


def _last(features: Features) -> Tensor:
    """The tensor timm calls features: the last map, or class token and cells (B, 1 + N, C)."""
    last = list(features.maps.values())[-1]
    if features.pooled is None:
        return last
    return torch.cat([features.pooled.unsqueeze(1), last.flatten(2).transpose(1, 2)], 1)


def _indices(indices: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Indices of maps, ascending from 0; None is all, an int the last so many. Raises ValueError."""
    if indices is None:
        return tuple(range(count))
    wanted = list(range(-indices, 0) if isinstance(indices, int) else indices)
    if not wanted or not all(-count <= index < count for index in wanted):
        raise ValueError(f"out_indices = {indices}: there are {count} maps")
    return tuple(sorted({index % count for index in wanted}))


def _entrypoint(name: str, variant: str) -> Any:
    """The function timm calls to make the model `name`."""

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        feature_cfg: dict[str, Any] = {}
        out_indices = kwargs.pop("out_indices", None)
        if kwargs.get("features_only"):
            taken = _indices(out_indices, 1 if VARIANTS[variant].is_plain else 4)
            feature_cfg = {"out_indices": taken, "feature_cls": TimmFeatures}
            kwargs |= {"num_classes": 0, "out_stages": tuple(index + 1 for index in taken)}
        return build_model_with_cfg(
            cast(Any, partial(TimmClassifier, variant)),
            name,
            pretrained,
            pretrained_filter_fn=fitted,
            feature_cfg=feature_cfg,
            **kwargs,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{variant} of sptcore, in timm's contract."
    return build


__all__ = ["NAMES", "TimmClassifier", "TimmFeatures", "fitted"]
for _name, _variant in NAMES.items():
    globals()[_name] = register_model(_entrypoint(_name, _variant))
