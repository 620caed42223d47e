"""Architectures from transformers' own configurations, small, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

TEXT = {
    "vocab_size": 120,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
DECODER = {**TEXT, "num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0}


def build(config: str, model: str, settings: Mapping[str, Any]) -> nn.Module:
    """A model of transformers by the names of its classes; outputs as a structure with names."""
    import transformers

    module: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings))
    return module


class Only(nn.Module):
    """A model with fixed settings of its call, and of its outputs only those that are named."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...], **settings: object) -> None:
        super().__init__()
        self.model, self.outputs, self.settings = model, outputs, settings

    def call(self, **inputs: Tensor) -> dict[str, Tensor]:
        found = self.model(**inputs, **self.settings)
        return {name: found[name] for name in self.outputs}


class OfText(Only):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return self.call(input_ids=input_ids, attention_mask=attention_mask)


class OfTokens(Only):
    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return self.call(input_ids=input_ids)


class OfImage(Only):
    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return self.call(pixel_values=pixel_values)


class OfImageAndText(Only):
    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return self.call(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask)


class OfSpeech(Only):
    def forward(self, input_features: Tensor) -> dict[str, Tensor]:
        return self.call(input_features=input_features)


class OfWave(Only):
    def forward(self, input_values: Tensor) -> dict[str, Tensor]:
        return self.call(input_values=input_values)


class WhisperStep(nn.Module):
    """The decoder's step: tokens so far and the encoder's states give the next token's logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.project = model.model.decoder, model.proj_out

    def forward(self, input_ids: Tensor, encoder_states: Tensor) -> dict[str, Tensor]:
        states = self.decoder(input_ids=input_ids, encoder_hidden_states=encoder_states, use_cache=False)
        return {"logits": self.project(states.last_hidden_state)}


def text(family: str, **settings: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return OfText(build(f"{family}Config", f"{family}Model", {**TEXT, **settings}), ("last_hidden_state",))

    return make


def vision(
    family: str, *outputs: str, config: str = "", suffix: str = "Model", bare: bool = False, **settings: object
) -> Callable[[], nn.Module]:
    """A vision model; `bare` leaves the sizes to the settings, for families with other names for them."""

    def make() -> nn.Module:
        chosen = settings if bare else {**VISION, **settings}
        return OfImage(
            build(f"{config or family}Config", f"{family}{suffix}", chosen), outputs or ("last_hidden_state",)
        )

    return make


def decoder(family: str, **settings: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = build(f"{family}Config", f"{family}ForCausalLM", {**DECODER, **settings})
        return OfTokens(model, ("logits",), use_cache=False)

    return make


modernbert = text(
    "ModernBert", global_attn_every_n_layers=2, local_attention=8, pad_token_id=0, reference_compile=False
)
swin = vision(
    "Swin", bare=True, image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
)
efficientnet = vision(
    "EfficientNet", bare=True, image_size=64, width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320
)
mobilevit = vision(
    "MobileViT",
    bare=True,
    image_size=64,
    hidden_sizes=[24, 32, 40],
    neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64],
    num_attention_heads=4,
)
mobilevit_v2 = vision(
    "MobileViTV2",
    bare=True,
    image_size=64,
    width_multiplier=0.25,
    base_attn_unit_dims=[32, 48, 64],
    n_attn_blocks=[1, 1, 1],
)
poolformer = vision("PoolFormer", bare=True, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1], num_encoder_blocks=4)
segformer = vision(
    "Segformer",
    "logits",
    suffix="ForSemanticSegmentation",
    bare=True,
    hidden_sizes=[16, 24, 32, 40],
    depths=[1, 1, 1, 1],
    num_attention_heads=[1, 2, 2, 4],
    decoder_hidden_size=32,
    num_labels=5,
)
yolos = vision(
    "Yolos",
    "logits",
    "pred_boxes",
    suffix="ForObjectDetection",
    image_size=[32, 32],
    num_detection_tokens=8,
    num_labels=5,
)
resnet = vision("ResNet", bare=True, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="bottleneck")
regnet = vision("RegNet", bare=True, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], groups_width=8)


def distilbert() -> nn.Module:
    sizes = {
        "vocab_size": 120,
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 128,
        "max_position_embeddings": 64,
    }
    return OfText(build("DistilBertConfig", "DistilBertModel", sizes), ("last_hidden_state",))


def mobilebert() -> nn.Module:
    sizes = {**TEXT, "embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2}
    return OfText(build("MobileBertConfig", "MobileBertModel", sizes), ("last_hidden_state", "pooler_output"))


def deberta() -> nn.Module:
    sizes = {
        **TEXT,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    }
    return OfText(build("DebertaV2Config", "DebertaV2Model", sizes), ("last_hidden_state",))


def t5_encoder() -> nn.Module:
    sizes = {"vocab_size": 120, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    return OfText(build("T5Config", "T5EncoderModel", sizes), ("last_hidden_state",))


def clip() -> nn.Module:
    words = {**TEXT, "eos_token_id": 119, "bos_token_id": 1, "pad_token_id": 0}
    settings = {"text_config": words, "vision_config": VISION, "projection_dim": 32}
    return OfImageAndText(
        build("CLIPConfig", "CLIPModel", settings), ("logits_per_image", "text_embeds", "image_embeds")
    )


def siglip() -> nn.Module:
    settings = {"text_config": {**TEXT, "max_position_embeddings": 16}, "vision_config": VISION}
    return OfImageAndText(
        build("SiglipConfig", "SiglipModel", settings), ("logits_per_image", "text_embeds", "image_embeds")
    )


def blip() -> nn.Module:
    words = {
        **TEXT,
        "encoder_hidden_size": 64,
        "projection_dim": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "pad_token_id": 0,
    }
    settings = {"text_config": words, "vision_config": VISION, "projection_dim": 32, "image_text_hidden_size": 32}
    return OfImageAndText(build("BlipConfig", "BlipForImageTextRetrieval", settings), ("itm_score",))


def detr() -> nn.Module:
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    settings = {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": backbone,
        "d_model": 64,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "num_queries": 8,
        "num_labels": 5,
    }
    return OfImage(build("DetrConfig", "DetrForObjectDetection", settings), ("logits", "pred_boxes"))


SPEECH = {
    "vocab_size": 120,
    "num_mel_bins": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "d_model": 64,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_source_positions": 32,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}


def whisper_encoder() -> nn.Module:
    model: Any = build("WhisperConfig", "WhisperModel", SPEECH)
    return OfSpeech(model.encoder, ("last_hidden_state",))


def whisper_decoder() -> nn.Module:
    return WhisperStep(build("WhisperConfig", "WhisperForConditionalGeneration", SPEECH))


def wav2vec2() -> nn.Module:
    sizes = {
        **TEXT,
        "vocab_size": 32,
        "conv_dim": (32, 32, 32),
        "conv_stride": (5, 2, 2),
        "conv_kernel": (10, 3, 3),
        "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    return OfWave(build("Wav2Vec2Config", "Wav2Vec2ForCTC", sizes), ("logits",))


def bart_encoder() -> nn.Module:
    sizes = {
        "vocab_size": 120,
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "max_position_embeddings": 64,
    }
    model: Any = build("BartConfig", "BartModel", sizes)
    return OfText(model.encoder, ("last_hidden_state",))


def gpt2() -> nn.Module:
    sizes = {
        "vocab_size": 120,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    return OfTokens(build("GPT2Config", "GPT2LMHeadModel", sizes), ("logits",), use_cache=False)


def depth_anything() -> nn.Module:
    import transformers

    backbone = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2, image_size=56, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    settings = {
        "backbone_config": backbone,
        "reassemble_hidden_size": 64,
        "neck_hidden_sizes": [8, 16, 24, 32],
        "fusion_hidden_size": 16,
        "head_hidden_size": 8,
        "patch_size": 14,
        "initializer_range": 0.1,  # with the usual 0.02 the depth is 1e-7, which no float16 holds
    }
    return OfImage(build("DepthAnythingConfig", "DepthAnythingForDepthEstimation", settings), ("predicted_depth",))


def audio_spectrogram() -> nn.Module:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    settings = {**sizes, "num_mel_bins": 32, "max_length": 64, "num_labels": 7}
    return OfWave(build("ASTConfig", "ASTForAudioClassification", settings), ("logits",))
