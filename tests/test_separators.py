"""What separates the values of a table is found by one rule, whatever the file is called and whichever reader reads it."""

from pathlib import Path

import pytest
from own_files import write_pictures
from own_tasks import fault, task_of

from renaissance.tasks.data.faults import Faults
from renaissance.tasks.data.opening import open_file, open_split
from renaissance.tasks.data.tables import read_separated


pytestmark = pytest.mark.usefixtures("dataset_cache")

ROWS = [["file_name", "words", "kind"], ["0.png", "a dog", "NA"], ["1.png", "b", "007"], ["2.png", "c", "x"]]


def write(path: Path, separator: str, rows: list[list[str]] = ROWS, ends: str = "\n") -> Path:
    path.write_text("".join(separator.join(row) + ends for row in rows), newline="")
    return path


def as_file(folder: Path, name: str, separator: str):
    return open_file(write(folder / name.replace("NAME", "own"), separator), Faults(""))


def as_metadata(folder: Path, name: str, separator: str):
    write_pictures(folder)
    write(folder / "photos" / name.replace("NAME", "metadata"), separator)
    return open_file(folder / "photos", Faults(""))


def as_data_set_of_images(folder: Path, name: str, separator: str):
    write_pictures(folder / "train")
    (folder / "train" / "photos").rename(folder / "train2017")
    write(folder / "train2017" / name.replace("NAME", "metadata"), separator)
    (folder / "train").rmdir()
    return open_split(str(folder), "train")


def as_table_of_a_split(folder: Path, name: str, separator: str):
    write(folder / name.replace("NAME", "val"), separator)
    return open_split(str(folder), "validation")


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"], ids=["comma", "tab", "semicolon", "bar"])
@pytest.mark.parametrize("name", ["NAME.csv", "NAME.tsv", "NAME.CSV"])
@pytest.mark.parametrize("reader", [as_file, as_metadata, as_data_set_of_images, as_table_of_a_split])
def test_each_reader_finds_each_separator_in_each_file(reader, name, separator, tmp_path):
    data = reader(tmp_path, name, separator)
    assert [data[column][:] for column in ("words", "kind")] == [["a dog", "b", "c"], ["NA", "007", "x"]]
    assert data["file_name"][:] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("own.csv", "photo;text (short, plain)\n0.png;a\n1.png;b\n", ["photo", "text (short, plain)"]),
        ("own.csv", "photo\ttext, in English\n0.png\ta, b, c\n1.png\tb\n", ["photo", "text, in English"]),
        ("own.tsv", "photo;text|words\n0.png;a\n1.png;b\n", ["photo", "text|words"]),
        ("own.tsv", "photo\ttext,a,b,c\n0.png\ta\n1.png\tb\n", ["photo", "text,a,b,c"]),
        ("own.csv", "photo|text|size, in cm\n0.png|a|1,5\n1.png|b|2,5\n", ["photo", "text", "size, in cm"]),
        ("own.csv", 'photo,text;x\n0.png,"a;b\n1;c"\n1.png,b\n', ["photo", "text;x"]),
        ("own.csv", "text\na, b\nc; d\n", ["text"]),
        ("own.tsv", "text\na, b\tc\nc; d\td\n", ["text"]),
    ],
)
def test_of_several_marks_in_the_names_the_one_of_the_rows_separates(name, text, columns, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_separated(tmp_path / name, Faults("")).column_names == columns


def test_lines_with_too_many_values_do_not_change_the_separator(tmp_path):
    write_pictures(tmp_path)
    text = "picture,words;more\nphotos/0.png,a, b\nphotos/1.png,c, d\nphotos/2.png,e\n"
    (tmp_path / "own.csv").write_text(text)
    message = fault(task_of("pretraining", train_file=tmp_path / "own.csv", captions_column="words;more"))
    assert "2 of 3 rows" in message and "3 values for 2 names in the first line (separator ',')" in message
