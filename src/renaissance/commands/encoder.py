"""Train a small text or vision encoder, or take one out of a model, as a plain folder of transformers.

    renaissance encoder text --dataset demo/shapes/captions \\
        --tokenizer demo/shapes/tokenizer --output demo/words
    renaissance encoder vision --dataset demo/shapes/cifar10 --output demo/eyes
    renaissance pretrain pretrain_shapes_two_tower --text_encoder demo/words \\
        --vision_encoder demo/eyes
    renaissance encoder extract --model demo/pretrained --tower text \\
        --output demo/tower

Freezing and initialisation mean nothing with random towers. The text encoder
learns masked words of captions, the vision encoder classes of images. An
encoder that is taken out of a model has learned what the model was trained on.
"""

import argparse
import sys
from pathlib import Path

import datasets
import torch
from transformers import TrainingArguments

from renaissance_cli.mistakes import one_line

from ..checkpoints import add_loading_options, checkpoint_of
from ..studies.encoders import extract_encoder, prepared_output, train_text_encoder, train_vision_encoder
from ..tasks.argument_checks import parse_json_object
from ..tasks.run_lock import exclusive
from .parsing import COUNTS, SEEDS, OneLineParser, new_folder, number_in
from .records import extraction_record


#: The shapes of the encoders by default: one shape for both, so that a one-tower model may be built on either.
SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
OVERRIDES = {
    "text": SHAPE | {"max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "vision": SHAPE | {"image_size": 64, "patch_size": 16},
}
TYPES = {"text": "bert", "vision": "vit"}


def main(arguments: list[str] | None = None) -> None:
    """Train, or take out, the encoder that the command line asks for. Exit with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        with exclusive(args.output, called="output"):
            told = make(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {one_line(error)}\n")
    print(f"{args.output}: {told}")


def make(args: argparse.Namespace) -> str:
    """Train, or take out, the encoder; return what it is, in words. Raise `ValueError` if that cannot be done."""
    output = prepared_output(args.output)
    if args.kind == "extract":
        checkpoint = checkpoint_of(args, "model")
        encoder, model = extract_encoder(checkpoint, args.tower, output)
        name, options = args.output.resolve().name, {"model": args.model, "tower": args.tower}
        extraction_record(encoder, model, checkpoint.at_revision, name, options).write(args.output)
        return f"a {encoder.config.model_type} {args.tower} encoder of {args.model}"
    overrides = OVERRIDES[args.kind] | (parse_json_object("overrides", args.overrides) or {})
    training = training_arguments(args, output)
    if args.kind == "text":
        metrics = train_text_encoder(args.dataset, args.tokenizer, args.type, overrides, training)
    else:
        metrics = train_vision_encoder(args.dataset, args.type, overrides, training)
    told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    return f"a {args.type} {args.kind} encoder; on the validation split: {told}"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser("renaissance encoder", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="KIND", dest="kind")
    for kind, what in (("text", "masked words of captions"), ("vision", "classes of images")):
        summary = f"Train a {kind} encoder on {what}."
        command = commands.add_parser(kind, description=summary, help=summary, formatter_class=raw)
        columns = "captions or text" if kind == "text" else "image and label"
        command.add_argument("--dataset", required=True, help=f"data set with the columns {columns}")
        if kind == "text":
            command.add_argument("--tokenizer", required=True, help="folder or Hub id of the tokenizer")
        command.add_argument("--output", type=new_folder, required=True, help="folder to write the encoder to")
        command.add_argument("--type", default=TYPES[kind], help="type of transformers (default: %(default)s)")
        command.add_argument("--overrides", default="{}", help="fields of its configuration, in JSON (default: small)")
        command.add_argument("--max_steps", type=number_in(int, COUNTS), default=500, help="(default: %(default)s)")
        command.add_argument("--batch_size", type=number_in(int, COUNTS), default=64, help="(default: %(default)s)")
        command.add_argument(
            "--learning_rate", type=number_in(float, "(0, 1]"), default=1e-3, help="(default: %(default)s)"
        )
        command.add_argument("--seed", type=number_in(int, SEEDS), default=0, help="(default: %(default)s)")
    summary = "Take an encoder out of a two-tower model."
    command = commands.add_parser("extract", description=summary, help=summary, formatter_class=raw)
    command.add_argument("--model", required=True, help="folder or Hub id of the model")
    command.add_argument("--tower", choices=tuple(TYPES), required=True, help="the encoder")
    command.add_argument("--output", type=new_folder, required=True, help="folder to write the encoder to")
    add_loading_options(command)
    return parser


def training_arguments(args: argparse.Namespace, output: Path) -> TrainingArguments:
    """Return the arguments of stock `Trainer`."""
    return TrainingArguments(
        output_dir=str(output),
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=4 * args.batch_size,
        learning_rate=args.learning_rate,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        weight_decay=0.01,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=args.seed,
        disable_tqdm=not sys.stderr.isatty(),
    )
