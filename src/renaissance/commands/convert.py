"""
Convert a checkpoint of ViLT, LXMERT, CLIP or SigLIP into a Renaissance model.

    renaissance convert vilt --source dandelin/vilt-b32-mlm \\
        --output models/vilt
    renaissance convert lxmert --source unc-nlp/lxmert-base-uncased \\
        --output models/lxmert --text_encoder bert-base-uncased \\
        --vision_encoder google/vit-base-patch16-224
    renaissance convert clip --source openai/clip-vit-base-patch32 \\
        --output models/clip
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from renaissance_cli.mistakes import one_line

from ..checkpoints import add_loading_options, checkpoint_of
from ..conversion import VILT_CLASSES, Conversion, convert_lxmert, convert_vilt
from ..conversion_dual import convert_clip, convert_siglip
from ..model_cards.card import converted_card, write_card
from .parsing import SEEDS, OneLineParser, new_folder, number_in
from .records import conversion_record


VILT_HELP = f"""ViLT, with its head, as a one-tower model with the same outputs.

SOURCE is a checkpoint of {", ".join(VILT_CLASSES)}."""

CLIP_HELP = """CLIP, as a dual encoder with the same outputs."""

SIGLIP_HELP = """SigLIP, as a dual encoder with the same outputs."""

LXMERT_HELP = """The cross-modal layers of LXMERT, in a two-tower model.

Choose the text and the vision encoder: LXMERT's own read the boxes of a
detector. The modules between the encoders and the cross-modal layers are new,
so pretrain the model further."""


#: What LXMERT's conversion is told besides.
LXMERT_OPTIONS = ("text_encoder", "vision_encoder", "tokenizer", "cross_modal_layers", "seed")


def main(arguments: list[str] | None = None) -> None:
    """Converts what the command line names. Exits with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    output = args.output
    try:
        checkpoint = checkpoint_of(args, "source")
        if (output / "config.json").exists() and not args.overwrite:
            raise ValueError(f"output: {output} already holds a model; choose another folder, or pass --overwrite")
        options = {name: getattr(args, name) for name in (*args.options, "trust_remote_code")}
        conversion = args.convert(checkpoint.at_revision, **options)
        conversion.model.save_pretrained(output)
        write_card(
            output, converted_card(output.resolve().name, conversion.model, conversion.source, conversion.notes)
        )
        if conversion.processor is not None:
            conversion.processor.save_pretrained(output)
        name = output.resolve().name
        conversion_record(conversion.model, checkpoint.at_revision, name, options).write(output)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {one_line(error)}\n")
    report(conversion, output)


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a kind of source."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser("renaissance convert", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="MODEL")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--source", required=True, help="Hub id or folder of the checkpoint")
    common.add_argument("--output", type=new_folder, required=True, help="folder to write the model to")
    common.add_argument(
        "--overwrite", action="store_true", help="replace a model that the output folder already holds"
    )
    add_loading_options(common)

    def add(
        name: str, description: str, convert: Callable[..., Conversion], options: tuple[str, ...]
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, parents=[common], description=description, help=description.splitlines()[0], formatter_class=raw
        )
        command.set_defaults(convert=convert, options=options)
        return command

    add("vilt", VILT_HELP, convert_vilt, ())
    add("clip", CLIP_HELP, convert_clip, ())
    add("siglip", SIGLIP_HELP, convert_siglip, ())
    lxmert = add("lxmert", LXMERT_HELP, convert_lxmert, LXMERT_OPTIONS)
    lxmert.add_argument("--text_encoder", required=True, help="Hub id or folder of the text encoder")
    lxmert.add_argument("--vision_encoder", required=True, help="Hub id or folder of the vision encoder")
    lxmert.add_argument("--tokenizer", help="Hub id or folder of the tokenizer (default: the text encoder's own)")
    lxmert.add_argument(
        "--cross_modal_layers",
        type=number_in(int, "[1, 1024]"),
        help="how many layers to take (default: all of LXMERT's)",
    )
    lxmert.add_argument(
        "--seed", type=number_in(int, SEEDS), default=0, help="of the weights that are new (default: %(default)s)"
    )
    return parser


def report(conversion: Conversion, output: Path) -> None:
    """Print the new model's folder and size, and which weights were left out or are new."""
    model = conversion.model
    print(
        f"{output}: {type(model).__name__}, {model.num_parameters() / 1e6:.1f}M parameters, from {conversion.source}"
    )
    titles = {"left out of the source": conversion.left_out, "not from the source": conversion.new}
    for title, lines in titles.items():
        print("\n  ".join([f"{title}:", *lines]) if lines else f"{title}: nothing")
    for remark in conversion.remarks:
        print(f"differs: {remark}")
    if conversion.processor is None:
        print(f"processor: none saved, {conversion.source} lacks a tokenizer or an image processor")
    else:
        print(f"processor: saved, {type(conversion.processor.image_processor).__name__} and the tokenizer")
