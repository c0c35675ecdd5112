"""Building blocks of the architectures: attention, cross-modal layers, embeddings of text and types, poolers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
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
    """Return what queries see, and the attention weights: (B, Q, heads, head size) and (B, heads, Q, K); the mask is additive."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    dropped = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (dropped @ value).transpose(1, 2), weights


class Recomputing(nn.Module):
    """A module that keeps less for the backward pass: it makes values that cost next to no time again there."""

    # transformers sets this if whole layers are checkpointed; nothing inside one is kept then.
    gradient_checkpointing = False

    def again(self, function: Callable[..., Any], linear: nn.Module, *values: torch.Tensor) -> Any:
        """
        Return `function(*values)`, which ends with the layer `linear`. The backward pass makes the values before that layer again,
        and stops there, so no product is computed twice.
        """
        if not (self.training and torch.is_grad_enabled()) or self.gradient_checkpointing:
            return function(*values)
        # An adapter around the layer may draw random numbers, which have to be the same again.
        return checkpoint(function, *values, use_reentrant=False, preserve_rng_state=not isinstance(linear, nn.Linear))


class CrossModalAttention(Recomputing):
    """Multi-head attention of `states` over `context`, with output projection, residual and layer norm (post-norm)."""

    is_causal = False

    def __init__(self, config):
        super().__init__()
        size = config.cross_modal_hidden_size
        self.config = config
        self.head_size = size // config.cross_modal_heads
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.cross_modal_dropout)

    def projected(self, rows: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return queries of `rows` (N, size), and keys and values of the rows `seen`, in as few products as there are inputs."""
        if seen is rows:
            return together(rows, self.query, self.key, self.value)
        return (self.query(rows), *together(seen, self.key, self.value))

    def heads(self, rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return rows (B * N, size) of states of `shape` (B, N, size), as (B, heads, N, head size)."""
        return rows.view(*shape[:2], -1, self.head_size).transpose(1, 2)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what queries (B, heads, Q, head size) see, as rows (B * Q, size), and the weights if attention is eager."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.config.cross_modal_attention_dropout if self.training else 0.0
        attended, weights = attend(self, query, key, value, mask, scaling=self.head_size**-0.5, dropout=dropout)
        return attended.reshape(-1, self.head_size * query.shape[1]), weights

    def project(self, *attended: torch.Tensor) -> torch.Tensor:
        """Apply the output projection to the rows of several tensors, one after the other."""
        return self.output(torch.cat(attended))

    def forward(
        self, states: torch.Tensor, context: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Return what `states` (B, Q, size) become when they see `context` (B, K, size), before `layer_norm`, which is left to the
        reader; and the attention weights.
        """
        rows = states.flatten(0, 1)
        query, key, value = self.projected(rows, rows if context is states else context.flatten(0, 1))
        attended, weights = self.attend(
            self.heads(query, states.shape), self.heads(key, context.shape), self.heads(value, context.shape), mask
        )
        return (rows + self.dropout(self.output(attended))).view(states.shape), weights

    def exchange(
        self, text: torch.Tensor, image: torch.Tensor, masks: "CrossModalMasks", first_image: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """
        Let texts (B, T, size) and images (B, P, size) see each other; images of the pairs from `first_image` on see their text.
        Both directions have the same weights, so the rows of both go through each of them together. Return the new text states
        (B, T, size), the new image states (B - first_image, P, size), and the attention weights of both.
        """
        seeing, seen = image[first_image:], text[first_image:]
        rows = torch.cat([text.flatten(0, 1), seeing.flatten(0, 1)])
        context = rows if first_image == 0 else torch.cat([seen.flatten(0, 1), image.flatten(0, 1)])
        text_rows, seen_rows = text.shape[0] * text.shape[1], seen.shape[0] * seen.shape[1]
        query, *seen_as = self.projected(rows, context)
        query = query.split([text_rows, rows.shape[0] - text_rows])
        key, value = (part.split([seen_rows, context.shape[0] - seen_rows]) for part in seen_as)
        to_image, text_weights = self.attend(
            self.heads(query[0], text.shape),
            self.heads(key[1], image.shape),
            self.heads(value[1], image.shape),
            masks.text_to_image,
        )
        to_text, image_weights = self.attend(
            self.heads(query[1], seeing.shape),
            self.heads(key[0], seen.shape),
            self.heads(value[0], seen.shape),
            pairs_from(masks.image_to_text, first_image),
        )
        projected = self.again(self.project, self.output, to_image, to_text)
        new = self.layer_norm(rows + self.dropout(projected)).split([text_rows, rows.shape[0] - text_rows])
        return new[0].view(text.shape), new[1].view(seeing.shape), text_weights, image_weights


#: Activations that are one operation, whose backward pass needs its input and not its output.
NEED_THEIR_INPUT = ("gelu", "gelu_pytorch_tanh", "mish", "silu", "swish")


class FeedForward(Recomputing):
    """
    Two linear layers with an activation between them, residual and layer norm (post-norm). In training it keeps the states
    before its input's layer norm and before an activation such as GELU, and makes those after them again.
    """

    def __init__(self, config):
        super().__init__()
        size = config.cross_modal_hidden_size
        # Rounded: a ratio that was made of two widths gives back the first.
        inner = round(size * config.cross_modal_mlp_ratio)
        self.up = nn.Linear(size, inner)
        self.act = ACT2FN[config.cross_modal_act]
        self.makes_again = config.cross_modal_act in NEED_THEIR_INPUT
        self.down = nn.Linear(inner, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.cross_modal_dropout)

    def forward(self, states: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        """Return what `states` (B, N, size), which `norm` is still to normalise, become."""
        normed, inner = self.again(self.widen, self.up, states, norm)
        down = self.again(self.activate, self.down, inner) if self.makes_again else self.activate(inner)
        return self.layer_norm(normed + self.dropout(down))

    def widen(self, states: torch.Tensor, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normalised states, and the first linear layer of them."""
        normed = norm(states)
        return normed, self.up(normed)

    def activate(self, inner: torch.Tensor) -> torch.Tensor:
        """Return the second linear layer of the activated states."""
        return self.down(self.act(inner))


class CrossModalMasks:
    """
    The attention masks between two streams, made once for all layers, without looking at values. Streams are states (B, N, size)
    or `None`; their masks have 1 for states, 0 for padding (B, N), or are `None` if there is no padding: nothing is masked then,
    as the fastest kernels need it.
    """

    def __init__(self, config, text, image, text_mask, image_mask):
        kind = config._attn_implementation

        def mask(queries, keys, key_mask):
            if queries is None or keys is None:
                return None
            return create_bidirectional_mask(config, queries, key_mask, encoder_hidden_states=keys)

        if kind in ("sdpa", "eager"):
            # One for all queries: they see the same.
            self.text = self.image_to_text = additive_mask(text, text_mask, kind)
            self.image = self.text_to_image = additive_mask(image, image_mask, kind)
        else:
            self.text, self.text_to_image = mask(text, text, text_mask), mask(text, image, image_mask)
            self.image, self.image_to_text = mask(image, image, image_mask), mask(image, text, text_mask)


def additive_mask(keys: torch.Tensor | None, mask: torch.Tensor | None, kind: str) -> torch.Tensor | None:
    """
    Return what is added to the scores of keys (B, K, size), (B, 1, 1, K), of the type that attention computes in: 0, and minus infinity
    for those that are 0 in `mask` (B, K); `None` if there is no mask.
    """
    if keys is None or mask is None:
        return None
    device = "cpu" if keys.is_meta else keys.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else keys.dtype
    # Eager attention turns a row that is hidden as a whole into NaN if it is infinite; the kernels of torch do not.
    hidden = torch.finfo(dtype).min if kind == "eager" else -torch.inf
    values = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask == 0, hidden)
    return values[:, None, None]


class CrossModalLayer(GradientCheckpointingLayer):
    """
    One layer of LXMERT's cross-modality encoder (Tan & Bansal 2019, section 2.2): cross-attention both ways with the same
    weights, then self-attention and a feed-forward layer for each stream. A stream alone runs without cross-attention.
    """

    def __init__(self, config):
        super().__init__()
        self.cross_attention = CrossModalAttention(config)
        self.text_attention = CrossModalAttention(config)
        self.text_mlp = FeedForward(config)
        self.image_attention = CrossModalAttention(config)
        self.image_mlp = FeedForward(config)

    def forward(
        self,
        text: torch.Tensor | None,
        image: torch.Tensor | None,
        masks: CrossModalMasks,
        text_rows: int | None = None,
        image_rows: int | None = None,
        first_image: int = 0,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, tuple[torch.Tensor | None, ...]]:
        """
        Return the new states of text (B, T, size) and image (B - first_image, P, size), and the attention weights (text to text,
        text to image, image to text, image to image), each `None` unless attention is eager.

        Args:
            text: Text states (B, T, size), or `None`.
            image: Image states (B, P, size), or `None`.
            masks: The masks between the two.
            text_rows: Number of a text's new states to make, from the first on; all by default, none with 0.
            image_rows: The same of an image.
            first_image: The first pair of which new image states are made.
        """
        text_weights = image_weights = text_to_image = image_to_text = None
        new_text = None if text_rows == 0 else text
        new_image = None if image is None or image_rows == 0 else image[first_image:]
        if text is not None and image is not None:
            if new_text is not None and new_image is not None:
                found = self.cross_attention.exchange(text, image, masks, first_image)
                new_text, new_image, text_to_image, image_to_text = found
            elif new_text is not None:
                new_text, text_to_image = self.cross_attention(text, image, masks.text_to_image)
                new_text = self.cross_attention.layer_norm(new_text)
            elif new_image is not None:
                mask = pairs_from(masks.image_to_text, first_image)
                new_image, image_to_text = self.cross_attention(new_image, text[first_image:], mask)
                new_image = self.cross_attention.layer_norm(new_image)
        if new_text is not None:
            mask = rows_of(masks.text, text_rows)
            new_text, text_weights = self.text_attention(first_states(new_text, text_rows), new_text, mask)
            new_text = self.text_mlp(new_text, self.text_attention.layer_norm)
        if new_image is not None:
            mask = rows_of(pairs_from(masks.image, first_image), image_rows)
            new_image, image_weights = self.image_attention(first_states(new_image, image_rows), new_image, mask)
            new_image = self.image_mlp(new_image, self.image_attention.layer_norm)
        return new_text, new_image, (text_weights, text_to_image, image_to_text, image_weights)


def together(rows: torch.Tensor, *layers: nn.Module) -> tuple[torch.Tensor, ...]:
    """Apply several linear layers to the same rows (N, in), by one product. Layers that are changed or watched are called one by one."""
    # Adapters and quantised layers are of other classes; ZeRO-3 collects the weights of a layer in a hook.
    if any(type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
        return tuple(layer(rows) for layer in layers)
    weights, biases = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return nn.functional.linear(rows, weights, biases).split([layer.out_features for layer in layers], dim=-1)


def first_states(states: torch.Tensor, count: int | None) -> torch.Tensor:
    """Return the first `count` states of each row (B, N, size); the tensor itself with `None`."""
    return states if count is None else states[:, :count]


def rows_of(mask: torch.Tensor | None, rows: int | None) -> torch.Tensor | None:
    """Return an attention mask (B, 1, Q, K), or one for all queries (B, 1, 1, K), of the first `rows` queries; `None` if there is none."""
    return None if mask is None else mask[:, :, :rows]


def pairs_from(mask: torch.Tensor | None, first: int) -> torch.Tensor | None:
    """Return an attention mask (B, 1, Q, K) of the pairs from `first` on; `None` if there is none."""
    return None if mask is None else mask[first:]


class ScoreLinear(nn.Linear):
    """
    A last layer: (..., in) to scores (..., out) in single precision or better, whatever the precision of the states and of its
    weights. Half precision, of autocast or of a model that is cast as a whole, rounds scores so much that many of those that are
    compared are the same. With `only_in_evaluation`, it is like any other layer in training.
    """

    def __init__(self, in_features: int, out_features: int, only_in_evaluation: bool = False):
        super().__init__(in_features, out_features)
        self.only_in_evaluation = only_in_evaluation

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.training and self.only_in_evaluation:
            return super().forward(states)
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.autocast("cpu" if states.is_meta else states.device.type, enabled=False):
            return nn.functional.linear(states.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class MaskedLMHead(nn.Module):
    """
    BERT's masked-LM head (Devlin et al. 2019, section 3.1): dense, GELU, layer norm, vocabulary projection with bias. The input
    embeddings give the vocabulary size, and, if the projection is tied to them, the width of the dense layer.
    """

    def __init__(self, config, word_embeddings: nn.Embedding):
        super().__init__()
        vocab_size, embedding_size = word_embeddings.weight.shape
        size = embedding_size if config.tie_word_embeddings else config.hidden_size
        self.dense = nn.Linear(config.hidden_size, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        # A vocabulary is so large that training is faster in half precision.
        self.decoder = ScoreLinear(size, vocab_size, only_in_evaluation=True)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.layer_norm(nn.functional.gelu(self.dense(states))))


class PixelNormalisation(nn.Module):
    """
    Turns pixels (B, C, H, W) into `dtype`, and normalises uint8 ones by the configuration's `pixel_mean` and `pixel_deviation`:
    loaders pass a quarter of the bytes, and the model's device does the arithmetic.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.values: tuple | None = None
        self.register_buffer("statistics", None, persistent=False)
        if torch.get_default_device().type != "meta":
            self.fill(torch.get_default_device())

    def fill(self, device: torch.device) -> None:
        """Put mean and deviation on `device`. They are float32, whatever type the model gets: seen as integers, they keep theirs."""
        self.values = self.config.pixel_mean, self.config.pixel_deviation
        if None not in self.values:
            made = torch.tensor(self.values, dtype=torch.float32, device="cpu").view(torch.int32)
            self.statistics = made.view(2, -1, 1, 1).to(device)

    def forward(self, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if pixels.dtype != torch.uint8:
            return pixels.to(dtype)
        if self.config.pixel_mean is None:
            needed = "config.pixel_mean and config.pixel_deviation, which this model lacks"
            raise ValueError(
                f"pixel_values: uint8 pixels need {needed}; call processor.fit(model), or pass normalised pixels"
            )
        if self.values != (self.config.pixel_mean, self.config.pixel_deviation):
            self.fill(pixels.device)
        mean, deviation = self.statistics.view(torch.float32)
        return ((pixels - mean) / deviation).to(dtype)


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


class TypeEmbeddings(nn.Embedding):
    """
    Tells text from images, and the images of one text from each other: row 0 is the text, row 1 an image. Row 1 + k is the
    offset of image k to row 1, so that a model pretrained on single images knows the second image of a pair as an image. All
    start at zero: a freshly built model computes what its encoders were trained to.
    """

    def __init__(self, num_images: int, size: int):
        super().__init__(1 + num_images, size)

    def forward(self, types: torch.LongTensor) -> torch.Tensor:
        """(N,) types, 0 for text and 1 + k for image k, to (N, size)."""
        offsets = super().forward(types) * (types > 1).unsqueeze(-1)
        return super().forward(types.clamp(max=1)) + offsets


def last_real(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the last state (B, 1, size) of each row of `states` (B, N, size) that is not padding, 0 in `mask` (B, N)."""
    places = (torch.arange(mask.shape[1], device=mask.device) * (mask != 0)).argmax(dim=1)
    return states.gather(1, places.view(-1, 1, 1).expand(-1, 1, states.shape[2]))


class Pooler(nn.Module):
    """tanh(Linear(first token)): (B, N, size) to (B, size)."""

    def __init__(self, size: int):
        super().__init__()
        self.dense = nn.Linear(size, size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(states[:, 0]))
