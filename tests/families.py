"""A tiny random configuration of every encoder family of transformers, for the compatibility sweep."""

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)


#: Decoder-only families, which hide later tokens from earlier ones; those that are small enough to be tried quickly.
CAUSAL = (
    *("apertus", "arcee", "biogpt", "bitnet", "bloom", "codegen", "cohere", "cohere2", "ctrl", "deepseek_v3"),
    *("diffllama", "doge", "ernie4_5", "exaone4", "falcon", "falcon_mamba", "gemma", "gemma2", "gemma3_text"),
    *("glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj"),
    *("granite", "granitemoe", "helium", "hunyuan_v1_dense", "jamba", "lfm2", "llama", "llama4_text", "mamba"),
    *("mamba2", "minicpm3", "ministral", "mistral", "mixtral", "modernbert-decoder", "mpt", "nanochat"),
    *("nemotron", "olmo", "olmo2", "olmo3", "olmoe", "openai-gpt", "opt", "persimmon", "phi", "phi3", "phimoe"),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "recurrent_gemma", "rwkv", "seed_oss", "smollm3", "stablelm"),
    *("starcoder2", "vaultgemma", "xglm", "xlstm"),
)

#: Every family with a masked-language model, some more text encoders, and decoder-only families.
TEXT = (
    *MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    *("clip_text_model", "metaclip_2_text_model", "siglip2_text_model", "siglip_text_model", "splinter", "t5", "umt5"),
    *CAUSAL,
)

#: Every family with an image classifier, and some more image encoders.
VISION = (
    *MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    *("aimv2_vision_model", "altclip_vision_model", "blip_vision_model", "chinese_clip_vision_model"),
    *("clip_vision_model", "dinov3_convnext", "dinov3_vit", "dpt", "glpn", "maskformer-swin"),
    *("metaclip_2_vision_model", "mlcd_vision_model", "pixio", "radio", "sam_vision_model", "sapiens2"),
    *("siglip2_vision_model", "siglip_vision_model", "vit_mae", "vitdet", "yolos"),
)

#: Sizes of tiny encoders, by the names that configurations have for them. A family takes those that it knows.
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.1,
}
TEXT_SIZES = SIZES | {
    "embedding_size": 32,
    "vocab_size": 160,
    "pad_token_id": 1,
    "max_position_embeddings": 64,
    "d_model": 32,
    "dim": 32,
    "emb_dim": 32,
    "hidden_dim": 48,
    "num_layers": 2,
    "n_layers": 2,
    "n_heads": 4,
    "head_dim": 8,
    "num_key_value_heads": 4,
}
TEXT_SIZES |= {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
}
VISION_SIZES = SIZES | {"image_size": 32, "patch_size": 8, "num_heads": 4}

STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
CONVNEXT = STAGES | {"num_stages": 4, "patch_size": 4}
PYRAMID = {"num_attention_heads": [1, 2, 2, 2], "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4}

#: What a family needs beside these sizes, or in place of them.
SPECIAL = {
    "bit": STAGES | {"embedding_size": 8, "num_groups": 1},
    "codegen": {"rotary_dim": 4},
    "convnext": CONVNEXT,
    "convnextv2": CONVNEXT,
    "deepseek_v3": {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    | {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "donut-swin": SWIN,
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320},
    "focalnet": {"embed_dim": 8, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3], "patch_size": 4},
    "funnel": {"block_sizes": [1, 1], "d_head": 8, "d_inner": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "hiera": {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}
    | {"query_stride": [2, 2], "num_query_pool": 1, "masked_unit_size": [2, 2]},
    "levit": {"image_size": 64, "patch_size": 16, "num_attention_heads": [2, 2, 2], "hidden_sizes": [8, 16, 32]}
    | {"depths": [1, 1, 1], "key_dim": [4, 4, 4]},
    "longformer": {"attention_window": 4},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "maskformer-swin": SWIN,
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "mobilevit": {"image_size": 64, "patch_size": 2},
    "mobilevitv2": {"image_size": 64, "patch_size": 2},
    "modernbert": {"local_attention": 8},
    "neomme": {"head_dim": 16, "hidden_size": 64},
    "pvt": PYRAMID,
    "pvt_v2": PYRAMID,
    "qwen2_moe": {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4},
    "qwen3_moe": {"moe_intermediate_size": 16, "num_experts": 8},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"]},
    "regnet": STAGES | {"embedding_size": 8, "groups_width": 8},
    "rembert": {"input_embedding_size": 16},
    "resnet": STAGES | {"embedding_size": 8},
    "sam_vision_model": {"image_size": 64},
    "segformer": PYRAMID,
    "swin": SWIN,
    "swinv2": SWIN,
    "xmod": {"default_language": "en_XX"},
}

#: Fields that a family has under a name of `SIZES`, and that must follow from others.
LEFT_OUT = {
    "convnext": ("num_hidden_layers",),
    "convnextv2": ("num_hidden_layers",),
    "funnel": ("num_hidden_layers",),
    "falcon": ("head_dim",),
}


def tiny_config(family: str, text: bool) -> PreTrainedConfig:
    """The tiny configuration of a family as a text or as a vision encoder; of a model of both, that of the whole model."""
    default = CONFIG_MAPPING[family]()
    parts = {name: getattr(default, f"{name}_config", None) for name in ("text", "vision")}
    if all(isinstance(part, PreTrainedConfig) for part in parts.values()):
        return CONFIG_MAPPING[family](
            **{
                f"{name}_config": tiny_config(part.model_type, name == "text").to_dict()
                for name, part in parts.items()
            }
        )
    fields = {
        name: size
        for name, size in (TEXT_SIZES if text else VISION_SIZES).items()
        if hasattr(default, name)
        and isinstance(getattr(default, name), (type(size), type(None)))
        and name not in LEFT_OUT.get(family, ())
    }
    return CONFIG_MAPPING[family](**fields | SPECIAL.get(family, {}))
