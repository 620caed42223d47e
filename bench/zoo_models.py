"""The zoo's list: each architecture by name, with a source of inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench import zoo_plain as plain
from bench import zoo_transformers as hub

Batch = dict[str, Tensor]
Draw = Callable[[torch.Generator], Batch]


@dataclass(frozen=True)
class ZooModel:
    """An architecture with random weights; `source` is "transformers" or "PyTorch"."""

    source: str
    make: Callable[[], nn.Module]
    draw: Draw

    def build(self) -> nn.Module:
        """The same weights on every call, whatever ran before."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return randomize_norms(self.make())

    def batches(self, count: int, seed: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(seed)
        return [self.draw(generator) for _ in range(count)]


def randomize_norms(model: nn.Module) -> nn.Module:
    """Norms as after training: with the initial factors of 1, folding them into a weight would change nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None, "tracked by default"
            module.running_mean.normal_(0.0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if type(module).__name__.endswith(("Norm", "Norm1d", "Norm2d")):  # each library has its own RMSNorm
            factors, offsets = getattr(module, "weight", None), getattr(module, "bias", None)
            if factors is not None:
                factors.data += torch.rand_like(factors) - 0.5
            if offsets is not None:
                offsets.data += 0.2 * torch.randn_like(offsets)
    return model.eval()


def floats(name: str, *shape: int) -> Draw:
    """Values in [-2, 2), as of pixels or features."""
    return lambda generator: {name: torch.rand(shape, generator=generator) * 4.0 - 2.0}


def tokens(length: int = 16, vocabulary: int = 100) -> Draw:
    return lambda generator: {"input_ids": torch.randint(3, vocabulary, (1, length), generator=generator)}


def text(length: int = 16) -> Draw:
    """Tokens with padding at the end, as a mask tells."""

    def draw(generator: torch.Generator) -> Batch:
        used = int(torch.randint(length // 2, length + 1, (), generator=generator))
        mask = (torch.arange(length) < used).long()[None]
        return {**tokens(length)(generator), "attention_mask": mask}

    return draw


def together(*draws: Draw) -> Draw:
    return lambda generator: {key: value for draw in draws for key, value in draw(generator).items()}


IMAGE, SMALL_IMAGE = floats("pixel_values", 1, 3, 64, 64), floats("pixel_values", 1, 3, 32, 32)
STEP = together(tokens(6), floats("encoder_states", 1, 32, 64))

TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], Draw]] = {
    "BERT": (hub.text("Bert"), text()),
    "DistilBERT": (hub.distilbert, text()),
    "MobileBERT": (hub.mobilebert, text()),
    "RoBERTa": (hub.text("Roberta"), text()),
    "DeBERTa-v2": (hub.deberta, text()),
    "ALBERT": (hub.text("Albert", embedding_size=32), text()),
    "ELECTRA": (hub.text("Electra", embedding_size=32), text()),
    "MPNet": (hub.text("MPNet"), text()),
    "T5 encoder": (hub.t5_encoder, text()),
    "BART encoder": (hub.bart_encoder, text()),
    "ModernBERT": (hub.modernbert, text()),
    "CLIP": (hub.clip, together(SMALL_IMAGE, text())),
    "SigLIP": (hub.siglip, together(SMALL_IMAGE, text())),
    "BLIP": (hub.blip, together(SMALL_IMAGE, text())),
    "ViT": (hub.vision("ViT"), SMALL_IMAGE),
    "DeiT": (hub.vision("DeiT"), SMALL_IMAGE),
    "DINOv2": (hub.vision("Dinov2", mlp_ratio=2), SMALL_IMAGE),
    "BEiT": (hub.vision("Beit", use_relative_position_bias=True), SMALL_IMAGE),
    "Swin": (hub.swin, IMAGE),
    "ConvNeXt": (hub.vision("ConvNext", bare=True, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]), IMAGE),
    "ResNet": (hub.resnet, IMAGE),
    "RegNet": (hub.regnet, IMAGE),
    "MobileNetV1": (hub.vision("MobileNetV1", bare=True, image_size=64, depth_multiplier=0.25), IMAGE),
    "MobileNetV2": (hub.vision("MobileNetV2", bare=True, image_size=64, depth_multiplier=0.25), IMAGE),
    "EfficientNet": (hub.efficientnet, IMAGE),
    "MobileViT": (hub.mobilevit, IMAGE),
    "MobileViTv2": (hub.mobilevit_v2, IMAGE),
    "PoolFormer": (hub.poolformer, IMAGE),
    "SegFormer": (hub.segformer, IMAGE),
    "DETR": (hub.detr, IMAGE),
    "YOLOS": (hub.yolos, SMALL_IMAGE),
    "Depth Anything": (hub.depth_anything, floats("pixel_values", 1, 3, 56, 56)),
    "Whisper encoder": (hub.whisper_encoder, floats("input_features", 1, 16, 64)),
    "Whisper decoder step": (hub.whisper_decoder, STEP),
    "wav2vec2": (hub.wav2vec2, floats("input_values", 1, 1600)),
    "AST": (hub.audio_spectrogram, floats("input_values", 1, 64, 32)),
    "GPT-2": (hub.gpt2, tokens()),
    "Llama": (hub.decoder("Llama"), tokens()),
    "Qwen2": (hub.decoder("Qwen2"), tokens()),
    "Qwen3": (hub.decoder("Qwen3", head_dim=16), tokens()),
    "Gemma": (hub.decoder("Gemma", head_dim=16), tokens()),
    "Phi": (hub.decoder("Phi"), tokens()),
}

PLAIN: dict[str, tuple[Callable[[], nn.Module], Draw]] = {
    "DS-CNN (MLPerf Tiny)": (plain.ds_cnn, floats("input", 1, 1, 49, 10)),
    "ResNet-8 (MLPerf Tiny)": (plain.resnet8, floats("input", 1, 3, 32, 32)),
    "MobileNetV1-0.25 (MLPerf Tiny)": (plain.mobilenet_v1_quarter, floats("input", 1, 3, 96, 96)),
    "autoencoder (MLPerf Tiny)": (plain.autoencoder, floats("input", 1, 640)),
    "U-Net": (plain.UNet, floats("image", 1, 3, 32, 32)),
    "LSTM": (lambda: plain.Recurrent(nn.LSTM), floats("sequence", 1, 12, 20)),
    "LSTM, both directions": (lambda: plain.Recurrent(nn.LSTM, bidirectional=True), floats("sequence", 1, 12, 20)),
    "GRU": (lambda: plain.Recurrent(nn.GRU), floats("sequence", 1, 12, 20)),
    "GhostNet blocks": (plain.ghostnet, floats("input", 1, 3, 32, 32)),
    "MobileNetV3 blocks": (plain.mobilenet_v3, floats("input", 1, 3, 32, 32)),
    "EfficientFormer blocks": (plain.efficientformer, floats("input", 1, 3, 32, 32)),
    "pixel shuffle": (plain.super_resolution, floats("input", 1, 1, 16, 16)),
    "transposed convolutions": (plain.decoder_transposed, floats("input", 1, 16, 8, 8)),
    "grouped convolutions": (plain.grouped, floats("input", 1, 3, 32, 32)),
    "attention, fused": (lambda: plain.attention(fused=True), floats("input", 1, 16, 64)),
    "attention, spelled out": (lambda: plain.attention(fused=False), floats("input", 1, 16, 64)),
    "GLU": (plain.gated, floats("input", 1, 8, 32)),
    "RMSNorm": (plain.rms_normalized, floats("input", 1, 16, 64)),
    "rotary embeddings": (plain.Rotary, lambda g: {"tokens": torch.randint(0, 100, (1, 16), generator=g)}),
    "bilinear resize": (plain.Resized, floats("image", 1, 3, 32, 32)),
    "temporal convolutions": (plain.Temporal, floats("features", 1, 32, 40)),
    "picture and text, cross attention": (
        plain.Fusion,
        lambda g: {
            "image": torch.rand(1, 3, 32, 32, generator=g),
            "tokens": torch.randint(0, 60, (1, 12), generator=g),
        },
    ),
}

ZOO = {name: ZooModel("transformers", *entry) for name, entry in TRANSFORMERS.items()}
ZOO |= {name: ZooModel("PyTorch", *entry) for name, entry in PLAIN.items()}
