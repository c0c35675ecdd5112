"""Names in data and checkpoints of strangers are shown as text: no terminal obeys them, whoever prints them."""

import json
import logging

import pytest
from conftest import CLASSES, TWO_TOWER, tiny_bert, tiny_vit
from own_files import png

from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.progress import BarHandler
from renaissance.tasks.runner import run_task
from renaissance_cli.main import main
from renaissance_cli.mistakes import COMMANDS, visible


#: Colours, a title of the window, a bell, the one-byte form of an escape, a reversal of the writing, and half a character.
HOSTILE = "\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b2J\u202eback\ud800"
SHOWN = r"\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b2J\u202eback\ud800"


def test_what_a_terminal_obeys_is_written_as_an_escape():
    assert visible(HOSTILE) == SHOWN
    for plain in ("a café, ☃ and 👩‍🚀", "two\nlines\tand a tab", r"C:\x1b", "עברית فارسی"):
        assert visible(plain) == plain
    for number in [*range(9), *range(11, 32), *range(127, 160), 0x2028, 0x2066, 0xDFFF]:
        assert COMMANDS.search(chr(number)) and visible(chr(number)).isascii()


def test_a_line_of_the_log_shows_names_as_text(capsys):
    record = logging.LogRecord("renaissance", logging.WARNING, "", 0, "left out %s\nand more", (HOSTILE,), None)
    BarHandler().emit(record)
    assert capsys.readouterr().err == f"left out {SHOWN}\nand more\n"


def rows_of(tmp_path, change: dict) -> str:
    rows = [{"image": f"{n}.png", "text": "a red circle", "label": "yn"[n % 2]} for n in range(4)]
    for number, row in enumerate(rows):
        (tmp_path / row["image"]).write_bytes(png(number))
    rows[0] |= change
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("change", "options", "shown"),
    [
        ({"image": "\x1b[2Jgone.png"}, [], r"\x1b[2Jgone.png"),
        ({"image": "a\0b.png"}, [], r"a\x00b.png"),
        ({"\x1b[2Jcolumn": 1}, ["--image_column", "nosuch"], r"\x1b[2Jcolumn"),
    ],
)
def test_a_mistake_in_data_shows_names_as_text(change, options, shown, tmp_path, tokenizer_folder, refused):
    file = rows_of(tmp_path, change)
    argv = [
        *TWO_TOWER,
        "--tokenizer",
        str(tokenizer_folder),
        "--train_file",
        file,
        "--output_dir",
        str(tmp_path / "run"),
    ]
    said = refused(run_task, ImageTextClassification, "", [*argv, "--do_train", "--use_cpu", *options])
    assert shown in said and not COMMANDS.search(said)


@pytest.mark.parametrize(
    "argv",
    [["nosuch\x1b[2J"], ["nlvr2", "--nosuch\x1b[2J"], ["prepare", "shapes", "--output", "x", "--seed", "\x1b[2J"]],
)
def test_a_mistake_in_a_command_shows_it_as_text(argv, refused):
    said = refused(main, argv)
    assert r"\x1b[2J" in said.replace(r"\\", "\\") and not COMMANDS.search(said)


def test_classes_of_a_checkpoint_are_shown_as_text(processor, tmp_path, capsys):
    names = {0: HOSTILE.removesuffix("\ud800"), 1: "two\nlines"}
    sizes = {"cross_modal_hidden_size": 16, "cross_modal_layers": 1, "cross_modal_heads": 2, "id2label": names}
    text = tiny_bert(vocab_size=len(processor.tokenizer))
    model = CLASSES["two-tower", "ForSequenceClassification"].from_encoders(text, tiny_vit(), **sizes)
    processor.fit(model)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    main(["predict", str(tmp_path), "--text", "a red circle"])
    said = capsys.readouterr().out
    assert SHOWN.removesuffix(r"\ud800") in said and "two lines" in said and not COMMANDS.search(said)
    assert len(said.splitlines()) == 3
