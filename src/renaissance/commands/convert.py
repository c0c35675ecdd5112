"""
Convert a checkpoint of ViLT or LXMERT into a Renaissance model.

    renaissance convert vilt --source dandelin/vilt-b32-mlm \\
        --output models/vilt
    renaissance convert lxmert --source unc-nlp/lxmert-base-uncased \\
        --output models/lxmert --text_encoder bert-base-uncased \\
        --vision_encoder google/vit-base-patch16-224
"""

import argparse
from pathlib import Path

from ..conversion import VILT_CLASSES, Conversion, convert_lxmert, convert_vilt
from ..hub import sign_in


VILT_HELP = f"""ViLT, with its head, as a one-tower model with the same outputs.

SOURCE is a checkpoint of {", ".join(VILT_CLASSES)}."""

LXMERT_HELP = """The cross-modal layers of LXMERT, in a two-tower model.

Choose the text and the vision encoder: LXMERT's own read the boxes of a
detector. The modules between the encoders and the cross-modal layers are new,
so pretrain the model further."""


def main(arguments: list[str] | None = None) -> None:
    """Converts what the command line names. Exits with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = vars(parser.parse_args(arguments))
    output, overwrite, convert = args.pop("output"), args.pop("overwrite"), args.pop("convert")
    try:
        sign_in(args.pop("token"))
        if (output / "config.json").exists() and not overwrite:
            raise ValueError(f"output: {output} already holds a model; choose another folder, or pass --overwrite")
        conversion = convert(**args)
        conversion.model.save_pretrained(output)
        if conversion.processor is not None:
            conversion.processor.save_pretrained(output)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    report(conversion, output)


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a kind of source."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("renaissance convert", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="MODEL")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--source", required=True, help="Hub id, also with @revision, or folder of the checkpoint")
    common.add_argument("--token", help="access token of the Hub (default: HF_TOKEN, or that of `hf auth login`)")
    common.add_argument("--output", type=Path, required=True, help="folder to write the model to")
    common.add_argument(
        "--overwrite", action="store_true", help="replace a model that the output folder already holds"
    )

    def add(name: str, description: str, convert) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, parents=[common], description=description, help=description.splitlines()[0], formatter_class=raw
        )
        command.set_defaults(convert=convert)
        return command

    add("vilt", VILT_HELP, convert_vilt)
    lxmert = add("lxmert", LXMERT_HELP, convert_lxmert)
    lxmert.add_argument("--text_encoder", required=True, help="Hub id or folder of the text encoder")
    lxmert.add_argument("--vision_encoder", required=True, help="Hub id or folder of the vision encoder")
    lxmert.add_argument("--tokenizer", help="Hub id or folder of the tokenizer (default: the text encoder's own)")
    lxmert.add_argument("--cross_modal_layers", type=int, help="how many layers to take (default: all of LXMERT's)")
    lxmert.add_argument("--seed", type=int, default=0, help="of the weights that are new (default: %(default)s)")
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
