"""Names of published models, their networks and their families."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from bench import prediction_cnns as cnns
from bench import prediction_nets as nets
from bench.prediction_models import Net

MODELS: dict[str, Callable[[], Net]] = {
    "mobilenet_v1": cnns.mobilenet_v1,
    "mobilenet_v2": cnns.mobilenet_v2,
    **{f"mobilenet_v2_{width}": partial(cnns.mobilenet_v2, width) for width in (0.5, 1.4, 1.5, 2.0)},
    "mobilenet_v3_large": cnns.mobilenet_v3,
    "mobilenet_v3_large_0.5": partial(cnns.mobilenet_v3, "large", 0.5),
    "mobilenet_v3_large_0.75": partial(cnns.mobilenet_v3, "large", 0.75),
    "mobilenet_v3_small": partial(cnns.mobilenet_v3, "small"),
    **{f"mobilenet_v4_{size}": partial(cnns.mobilenet_v4, size) for size in "sml"},
    "resnet18": partial(cnns.resnet, 18),
    "resnet50": cnns.resnet,
    "resnet18_backbone_512": partial(cnns.resnet, 18, size=512, head=False),
    "resnet50_backbone_512": partial(cnns.resnet, 50, size=512, head=False),
    "resnext50": partial(cnns.resnet, 50, 32, 4),
    "vgg16": cnns.vgg16,
    "squeezenet1_1": cnns.squeezenet,
    "googlenet": cnns.googlenet,
    "densenet121": cnns.densenet121,
    "efficientnet_b0": cnns.efficientnet_b0,
    "efficientnet_v2_s": cnns.efficientnet_v2_s,
    "regnet_y_800mf": cnns.regnet_y_800mf,
    "convnext_tiny": nets.convnext,
    "convnext_small": partial(nets.convnext, (3, 3, 27, 3)),
    **{f"efficientdet_{name}": partial(nets.efficientdet_lite, name) for name in nets.DETECTORS},
    "ssd_mobilenet_v1": nets.ssd_mobilenet_v1,
    "yolov8n": partial(nets.yolo, 8),
    "yolo11n": partial(nets.yolo, 11),
    "yolo11s": partial(nets.yolo, 11, "s"),
    "vit_b16": partial(nets.encoder, 197, 768, 12, 12, 16),
    "bert_base_128": partial(nets.encoder, 128, 768, 12, 12),
    "distilbert_384": partial(nets.encoder, 384, 768, 12, 6),
}

# Models of one family are alike: a fit that has seen one is no test of another.
FAMILIES = {
    "mobilenet_v1": "mobilenet v1", "mobilenet_v2": "mobilenet v2", "mobilenet_v3": "mobilenet v3",
    "mobilenet_v4": "mobilenet v4", "resn": "resnet", "efficientdet": "efficientdet", "efficientnet":
    "efficientnet", "yolo": "yolo", "vit": "transformer", "bert": "transformer", "distilbert": "transformer",
    "convnext": "convnext",
}  # fmt: skip


@cache
def network(model: str) -> Net:
    return MODELS[model]()


def family(model: str) -> str:
    return next((name for start, name in FAMILIES.items() if model.startswith(start)), model)
