"""Building blocks of the architectures: attention, cross-modal layers, embeddings, poolers."""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention that gives its weights back: (B, Q, heads, head size) and (B, heads, Q, K); the mask is additive."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    dropped = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (dropped @ value).transpose(1, 2), weights


class CrossModalAttention(nn.Module):
    """Multi-head attention of `states` over `context`, with output projection, residual and layer norm (post-norm)."""

    is_causal = False

    def __init__(self, config):
        super().__init__()
        size = config.cross_modal_hidden_size
        self.config = config
        self.head_size = size // config.cross_modal_heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.cross_modal_dropout)

    def heads(self, states: torch.Tensor) -> torch.Tensor:
        """(B, N, size) to (B, heads, N, head size)."""
        return states.unflatten(-1, (-1, self.head_size)).transpose(1, 2)

    def forward(
        self, states: torch.Tensor, context: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        attended, weights = attend(
            self,
            self.heads(self.query(states)),
            self.heads(self.key(context)),
            self.heads(self.value(context)),
            mask,
            scaling=self.head_size**-0.5,
            dropout=self.config.cross_modal_attention_dropout if self.training else 0.0,
        )
        attended = self.dropout(self.output(attended.flatten(2)))
        return self.layer_norm(states + attended), weights


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, residual and layer norm (post-norm)."""

    def __init__(self, config):
        super().__init__()
        size = config.cross_modal_hidden_size
        inner = int(size * config.cross_modal_mlp_ratio)
        self.up = nn.Linear(size, inner)
        self.act = ACT2FN[config.cross_modal_act]
        self.down = nn.Linear(inner, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.cross_modal_dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.layer_norm(states + self.dropout(self.down(self.act(self.up(states)))))


class CrossModalMasks:
    """
    The attention masks between two streams, made once for all layers.

    Args:
        config: The model's configuration, which says which attention implementation the masks are for.
        text: States (B, T, size) of the text, or `None`.
        image: States (B, P, size) of the image, or `None`.
        text_mask: 1 for tokens, 0 for padding (B, T).
        image_mask: 1 for patches, 0 for padding (B, P).
    """

    def __init__(self, config, text, image, text_mask, image_mask):
        def mask(queries, keys, key_mask):
            if queries is None or keys is None:
                return None
            return create_bidirectional_mask(
                config=config, inputs_embeds=queries, attention_mask=key_mask, encoder_hidden_states=keys
            )

        self.text = mask(text, text, text_mask)
        self.image = mask(image, image, image_mask)
        self.text_to_image = mask(text, image, image_mask)
        self.image_to_text = mask(image, text, text_mask)


class CrossModalLayer(GradientCheckpointingLayer):
    """
    One layer of LXMERT's cross-modality encoder (Tan & Bansal 2019, section 2.2): cross-attention in both directions with
    the same weights, then self-attention and a feed-forward layer for each stream. Where one stream is missing the
    other runs without cross-attention.

    Args:
        config: The model's configuration.
        reads_image: Whether anything reads the image states that this layer makes. Where not, it has no self-attention and no
            feed-forward layer for them.
    """

    def __init__(self, config, reads_image: bool = True):
        super().__init__()
        self.cross_attention = CrossModalAttention(config)
        self.text_attention = CrossModalAttention(config)
        self.text_mlp = FeedForward(config)
        self.reads_image = reads_image
        if reads_image:
            self.image_attention = CrossModalAttention(config)
            self.image_mlp = FeedForward(config)

    def forward(
        self, text: torch.Tensor | None, image: torch.Tensor | None, masks: CrossModalMasks
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, tuple[torch.Tensor | None, ...]]:
        """
        Returns:
            The new text states (B, T, size), the new image states (B, P, size), and the attention weights
            (text to text, text to image, image to text, image to image), each `None` unless attention is eager.
        """
        text_weights = image_weights = text_to_image = image_to_text = None
        if text is not None and image is not None:
            (text, text_to_image), (image, image_to_text) = (
                self.cross_attention(text, image, masks.text_to_image),
                self.cross_attention(image, text, masks.image_to_text),
            )
        if text is not None:
            text, text_weights = self.text_attention(text, text, masks.text)
            text = self.text_mlp(text)
        if image is not None and self.reads_image:
            image, image_weights = self.image_attention(image, image, masks.image)
            image = self.image_mlp(image)
        return text, image, (text_weights, text_to_image, image_to_text, image_weights)


class TextEmbeddings(nn.Module):
    """Word-piece and position embeddings, layer norm and dropout: (B, T) token ids to (B, T, embedding_size)."""

    def __init__(self, config):
        super().__init__()
        size = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.embedding_dropout)

    def forward(self, input_ids: torch.LongTensor) -> torch.Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        return self.dropout(self.layer_norm(self.word_embeddings(input_ids) + self.position_embeddings(positions)))


def interpolate_positions(
    positions: torch.Tensor, old: tuple[int, int], new: tuple[int, int], mode: str = "bicubic"
) -> torch.Tensor:
    """Position embeddings (1, height * width, size) of an `old` grid of patches (height, width), as those of a `new` one."""
    if old == new:
        return positions
    grid = positions.unflatten(1, old).permute(0, 3, 1, 2)
    # The two modes are those of ViT and of ViLT, which differ in this too.
    grid = nn.functional.interpolate(grid, size=new, mode=mode, align_corners=mode == "bilinear")
    return grid.flatten(2).transpose(1, 2)


class ImageEmbeddings(nn.Module):
    """A class token and patch embeddings with positions: (B, C, H, W) pixels to (B, 1 + H/p * W/p, embedding_size)."""

    def __init__(self, config):
        super().__init__()
        size = config.embedding_size
        self.grid = config.image_size // config.patch_size
        self.patch_embeddings = nn.Conv2d(
            config.num_channels, size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + self.grid**2, size))
        self.dropout = nn.Dropout(config.embedding_dropout)

    def positions(self, height: int, width: int) -> torch.Tensor:
        """Position embeddings (1, 1 + height * width, size) of a grid of patches, interpolated where it is another one."""
        if (height, width) == (self.grid, self.grid):
            return self.position_embeddings
        first, patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        return torch.cat([first, interpolate_positions(patches, (self.grid, self.grid), (height, width))], dim=1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embeddings(pixel_values)
        positions = self.positions(*patches.shape[-2:])
        cls_token = self.cls_token.expand(patches.shape[0], -1, -1)
        return self.dropout(torch.cat([cls_token, patches.flatten(2).transpose(1, 2)], dim=1) + positions)


class TypeEmbeddings(nn.Embedding):
    """
    Tells text from images, and the images of one text from each other: row 0 is the text, row 1 an image. Row 1 + k is
    the offset of a further image k to row 1, so that a model pretrained on single images meets the second image of a
    pair as an image it knows. All start at zero: a freshly built model computes what its encoders were trained to.
    """

    def __init__(self, num_images: int, size: int):
        super().__init__(1 + num_images, size)

    def forward(self, types: torch.LongTensor) -> torch.Tensor:
        """(N,) types, 0 for text and 1 + k for image k, to (N, size)."""
        offsets = super().forward(types) * (types > 1).unsqueeze(-1)
        return super().forward(types.clamp(max=1)) + offsets


class Pooler(nn.Module):
    """tanh(Linear(first token)): (B, N, size) to (B, size)."""

    def __init__(self, size: int):
        super().__init__()
        self.dense = nn.Linear(size, size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(states[:, 0]))
