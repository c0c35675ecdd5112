"""
The compatibility sweep: each encoder family of transformers, tiny and random, in each place that an encoder can have here.

    python tests/compatibility.py docs/compatibility.md

writes the table of the documentation; `test_compatibility.py` runs the same checks.
"""

import contextlib
import io
import re
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from families import TEXT, VISION, tiny_config
from torch import nn
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel, ViTConfig

from renaissance import DualEncoderForPreTraining, OneTowerForPreTraining, TwoTowerForPreTraining
from renaissance.modeling.encoders import encoder_class, part_of


#: The places that an encoder can have, and a pattern of what error messages call it there.
PLACES = {
    "text tower": "cannot be a text tower",
    "vision tower": "cannot be a vision tower",
    "one tower": "cannot be the encoder of a one-tower model",
    "dual encoder": "cannot be a (?:text|vision) tower",
    "grid": "cannot be a grid encoder on images of 64x64 pixels",
}
#: The families that are tried in each.
BOTH = tuple(dict.fromkeys((*TEXT, *VISION)))
FAMILIES = {"text tower": TEXT, "vision tower": VISION, "one tower": BOTH, "dual encoder": BOTH, "grid": VISION}
VOCABULARY, TOKENS, SIZE = 160, 7, 32
#: Height and width of the images of grid encoders, of which most make 2 x 2 cells.
GRID_SIZE = 64

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
CROSS_MODAL = {"cross_modal_hidden_size": 16, "cross_modal_layers": 1, "cross_modal_heads": 2}
VECTORS = {"contrastive_size": 8}

#: Why a family cannot be tried, where the library's own message does not fit into a table.
NEEDS = {
    "dinat": "needs the library natten",
    "perceiver": "reads bytes or pixels into latent vectors of its own",
    "pp_lcnet": "has no model without the classifier",
    "shieldgemma2": "a generative model, with no encoder of its own",
    "timm_wrapper": "needs the library timm",
}


def source_model(family: str, text: bool, seed: int = 0) -> PreTrainedModel:
    """A random model of the family, as its checkpoints hold it, with no parameter at its usual starting value."""
    torch.manual_seed(seed)
    config = tiny_config(family, text)
    model = encoder_class(config)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0  # as training leaves it, and as some families load it
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if norms:
        # With the statistics that norms start with, nothing of an image would be left at the end.
        for norm in norms:
            norm.momentum = None
        size = image_side(config)
        model.train()(pixel_values=torch.randn(8, 3, size, size))
    return model.eval()


def image_side(config: PreTrainedConfig) -> int:
    """Height and width of the images that an encoder is tried on."""
    size = getattr(config, "image_size", None) or SIZE
    return size[0] if isinstance(size, (list, tuple)) else size


def build(folder: str, use: str, text: bool) -> PreTrainedModel:
    """A model with the encoder in `folder` in the place `use`."""
    torch.manual_seed(1)
    if use == "one tower":
        words = {"vocab_size": VOCABULARY, "pad_token_id": 1, "max_position_embeddings": 64}
        patches = {"image_size": SIZE, "patch_size": 8}
        model = OneTowerForPreTraining.from_encoder(folder, **(patches if text else words))
    elif use == "grid":
        words = BertConfig(vocab_size=VOCABULARY, **TINY)
        model = OneTowerForPreTraining.from_encoder(words, vision=folder, image_size=GRID_SIZE)
    else:
        dual = use == "dual encoder"
        made, sizes = (DualEncoderForPreTraining, VECTORS) if dual else (TwoTowerForPreTraining, CROSS_MODAL)
        if text:
            vision = ViTConfig(image_size=SIZE, patch_size=8, **TINY)
            model = made.from_encoders(folder, vision, random_init_vision=True, **sizes)
        else:
            words = BertConfig(vocab_size=VOCABULARY, **TINY)
            model = made.from_encoders(words, folder, random_init_text=True, **sizes)
        if dual:
            return model
    # What is new starts so small that a mistake in it would not show.
    nn.init.normal_(model.model.type_embeddings.weight, std=0.1)
    return model


def batch(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A pretraining batch of three rows without padding."""
    generator = torch.Generator().manual_seed(0)
    size = image_side(model.config if isinstance(model, OneTowerForPreTraining) else model.config.vision_config)
    ids = torch.randint(5, VOCABULARY, (3, TOKENS), generator=generator)
    masked = torch.arange(TOKENS) < 2
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(3, 3, size, size, generator=generator),
    }
    if not model.config.fuses:
        return inputs | {"contrastive_ids": torch.arange(3)}
    return inputs | {
        "mlm_input_ids": ids.masked_fill(masked, 4),
        "mlm_labels": ids.masked_fill(~masked, -100),
        "itm_image_index": torch.tensor([1, 0, 2]),
        "itm_labels": torch.tensor([0, 0, 1]),
    }


def check(family: str, use: str) -> str:
    """
    Builds a model, and asserts that the encoder's weights are those of its checkpoint, that the encoder's input matters and
    padding does not, that every trainable parameter gets a gradient, and that saving and loading changes nothing.

    Returns:
        What there is to know about it, if anything.
    """
    text = use == "text tower" or (use in ("one tower", "dual encoder") and family in TEXT)
    source = source_model(family, text)
    with tempfile.TemporaryDirectory() as folder:
        source.save_pretrained(folder)
        model = build(folder, use, text)
    base, rows = model.model, batch(model)
    check_weights(source, base, use, text)
    # The notes on a dual encoder's are those on the towers of two.
    if use in ("vision tower", "grid") or (use == "dual encoder" and not text):
        notes = []
    else:
        notes = [*check_padding(base, rows), *check_direction(base, rows)]
    check_input(base, rows)
    check_saving(model, rows)
    check_gradients(model, rows)
    if use == "one tower" and not alone_as_before(source, base, rows, text):
        notes.append("embeddings are new in part")
    parts = {"text tower": "text", "vision tower": "vision", "one tower": "cross_modal", "grid": "vision"}
    if use != "dual encoder" and not base.layers(parts[use]):
        notes.append("no list of layers")
    return "" if use == "dual encoder" else ", ".join(notes)


def check_weights(source: PreTrainedModel, base: PreTrainedModel, use: str, text: bool) -> None:
    """Every weight of the encoder is bit for bit that of the checkpoint."""
    encoder = base.encoder if use == "one tower" else base.text_encoder if text else base.vision_encoder
    saved = part_of(source, encoder.config)[1].state_dict()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, saved[name]), f"{name} is not that of the checkpoint"


def pair(rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: rows[name] for name in ("input_ids", "attention_mask", "pixel_values")}


def summed_up(base: PreTrainedModel, **rows: torch.Tensor) -> torch.Tensor:
    """The pooled vectors of pairs, or of one stream; of pairs of a dual encoder, the vectors of text and image side by side."""
    output = base(**rows)
    return torch.cat([output.text_embeds, output.image_embeds], dim=1) if output.pooled is None else output.pooled


@torch.no_grad()
def check_padding(base: PreTrainedModel, rows: dict[str, torch.Tensor]) -> list[str]:
    """Padding changes nothing, in rows of different lengths either."""
    ids, mask = rows["input_ids"], rows["attention_mask"].clone()
    mask[1, 4:] = 0
    padded = {
        "input_ids": torch.cat([ids, torch.full((3, 5), 77)], dim=1),
        "attention_mask": torch.cat([mask, torch.zeros(3, 5, dtype=torch.long)], dim=1),
    }
    long = pair(rows) | padded
    states, pooled = base(**long).text_states, summed_up(base, **long)
    for row, length in ((0, TOKENS), (1, 4)):
        short = {"input_ids": ids[row : row + 1, :length], "pixel_values": rows["pixel_values"][row : row + 1]}
        torch.testing.assert_close(pooled[row], summed_up(base, **short)[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(states[row, :length], base(**short).text_states[0], atol=2e-5, rtol=1e-4)
    traits = getattr(base, "text_traits", getattr(base, "traits", None))
    return [] if traits.masked else ["rows of one length run together"]


@torch.no_grad()
def check_direction(base: PreTrainedModel, rows: dict[str, torch.Tensor]) -> list[str]:
    """The encoder is causal, according to its traits, if and only if the last token does not change the first state."""
    ids = rows["input_ids"]
    other = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % VOCABULARY], dim=1)
    one_tower = hasattr(base, "traits")
    first, changed = (
        (base(input_ids=given).text_states if one_tower else base.encode_text(given).states)[:, 0]
        for given in (ids, other)
    )
    causal = (base.traits if one_tower else base.text_traits).causal
    assert torch.allclose(first, changed, atol=1e-6) == causal, f"causal: {causal}"
    return ["causal"] if causal else []


@torch.no_grad()
def check_input(base: PreTrainedModel, rows: dict[str, torch.Tensor]) -> None:
    """Other text gives other states, and so do other images, also those that differ in their lower right corner alone."""
    plain = summed_up(base, **pair(rows))
    for name in ("input_ids", "pixel_values"):
        other = summed_up(base, **(pair(rows) | {name: rows[name].flip(0)}))
        assert not torch.equal(other, plain), f"{name} changes nothing"
    last = rows["pixel_values"].clone()
    last[..., -last.shape[-1] // 4 :, -last.shape[-1] // 4 :] += 1
    assert not torch.equal(summed_up(base, pixel_values=last), summed_up(base, pixel_values=rows["pixel_values"]))


@torch.no_grad()
def check_saving(model: PreTrainedModel, rows: dict[str, torch.Tensor]) -> None:
    """A saved model is loaded bit for bit, and computes the same."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder)
    values = loaded.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    torch.testing.assert_close(
        summed_up(loaded.model, **pair(rows)), summed_up(model.model, **pair(rows)), atol=1e-6, rtol=1e-5
    )


def check_gradients(model: PreTrainedModel, rows: dict[str, torch.Tensor]) -> None:
    """Every parameter that is to train gets a gradient, and those of most get one that is not zero."""
    model.train()
    model(**rows).loss.backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    without = [name for name, parameter in trainable.items() if parameter.grad is None]
    assert not without, f"no gradient: {', '.join(without)}"
    model.eval()


@torch.no_grad()
def alone_as_before(source: PreTrainedModel, base: PreTrainedModel, rows: dict[str, torch.Tensor], text: bool) -> bool:
    """Whether a one-tower model computes on text (images) alone what the encoder that it was built from computes."""
    base.type_embeddings.weight.zero_()
    name = "input_ids" if text else "pixel_values"
    try:
        expected = part_of(source, base.config.encoder_config)[1](**{name: rows[name]}).last_hidden_state
        found = base(**{name: rows[name]})
    except (RuntimeError, ValueError):
        return False
    states = found.text_states if text else found.image_states
    return states.shape == expected.shape and torch.allclose(states, expected, atol=1e-4)


def result(family: str, use: str) -> tuple[bool, str]:
    """Whether a family can have a place, and what there is to know about it or why not."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return True, check(family, use)
        except (ValueError, ImportError) as error:
            return False, NEEDS.get(family) or re.split(f"{PLACES[use]}: ", " ".join(str(error).split()))[-1]


def table() -> str:
    """The results of all families, as a table in Markdown with a count below it."""
    lines = [f"| family | {' | '.join(PLACES)} | |", "|---" + "|:-:" * len(PLACES) + "|---|"]
    counts = dict.fromkeys(PLACES, 0)
    for family in FAMILIES["one tower"]:
        results = {use: result(family, use) for use in PLACES if family in FAMILIES[use]}
        cells = ["" if use not in results else "yes" if results[use][0] else "no" for use in PLACES]
        reasons: dict[str, list[str]] = {}
        for use, (works, note) in results.items():
            counts[use] += works
            if note:
                reasons.setdefault(note, []).append(use)
        notes = "; ".join(f"{', '.join(uses)}: {note}" for note, uses in reasons.items())
        lines.append(f"| {family} | {' | '.join(cells)} | {notes} |")
    works = ", ".join(f"{count} as {use}" for use, count in counts.items())
    return "\n".join(lines) + f"\n\nFamilies that work: {works}.\n"


def documented(page: Path) -> dict[tuple[str, str], bool]:
    """What the table on `page` says of each family and place."""
    table = page.read_text().split("\n| family")[1]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    cells = {row[0].strip(): [cell.strip() for cell in row[1 : 1 + len(PLACES)]] for row in rows}
    return {
        (family, use): cell == "yes"
        for family, row in cells.items()
        for use, cell in zip(PLACES, row, strict=True)
        if cell
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    path = Path(sys.argv[1])
    introduction = path.read_text().split("\n| family")[0]
    path.write_text(f"{introduction}\n{table()}")
