"""The pictures of a page as files, for papers and pages of one's own."""

import re
from html import unescape
from pathlib import Path

from ..tasks.checkpoints import replace_file


#: The title of a section of a page, or a picture with its caption, as markup.py makes them.
TITLE_OR_FIGURE = re.compile(
    r"<h2>(?P<title>.*?)</h2>|<figure>(?P<svg><svg .*?</svg>)\s*(?:<figcaption>(?P<caption>.*?)</figcaption>)?</figure>",
    re.DOTALL,
)
TAGS = re.compile(r"<[^>]*>")
#: A colour that a page may choose, with the one that it is without a page: only browsers know of such.
COLOUR = re.compile(r"var\(--[\w-]+, ([^()]+)\)")
#: What a name of a file has none of.
UNUSUAL = re.compile(r"[^a-z0-9]+")
#: Letters of a name of a file.
LONGEST = 80


def pictures_in(page: str) -> dict[str, str]:
    """Return the SVG of each picture of a page, by a name for its file: the title of its section, and what its caption says first."""
    found: dict[str, str] = {}
    title = ""
    for match in TITLE_OR_FIGURE.finditer(page):
        if match["svg"] is None:
            title = words_of(match["title"])
            continue
        caption = words_of(match["caption"] or "picture").partition(";")[0]
        name = UNUSUAL.sub("-", f"{title} {caption}".lower()).strip("-")[:LONGEST]
        same = sum(other == name or other.startswith(f"{name}-no-") for other in found)
        found[f"{name}-no-{same + 1}" if same else name] = COLOUR.sub(r"\1", match["svg"]) + "\n"
    return found


def words_of(markup: str) -> str:
    """Return the text of some markup."""
    return unescape(TAGS.sub("", markup))


def write_pictures(page: str, folder: Path) -> list[Path]:
    """Write each picture of a page into a folder as an SVG file; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, svg in pictures_in(page).items():
        files.append(folder / f"{name}.svg")
        replace_file(files[-1], svg)
    return files
