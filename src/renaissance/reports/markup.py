"""
HTML by hand: each function returns markup, in which every string of a user is escaped. A page is one file that needs nothing else: its
CSS and pictures are in it, and its policy forbids scripts and everything from elsewhere.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from PIL import Image

from ..model_cards.plain_text import one_line


#: What a browser may load for a page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
#: Pixels of the longer side of an image on a page; smaller ones keep their pixels.
THUMBNAIL, SMALL = 320, 128


class Markup(str):
    """A string that is HTML already."""


def text(value: Any) -> Markup:
    """
    Return a value as HTML on one line, without characters that cannot be seen, cut if it is very long. What it is does not change the
    direction of what stands beside it.
    """
    if isinstance(value, Markup):
        return value
    escaped = escape(one_line(value), quote=True)
    return Markup(escaped if escaped.isascii() else f"<bdi>{escaped}</bdi>")


def element(name: str, *content: Any, **attributes: Any) -> Markup:
    """Return an element with some content; `class_` stands for the attribute `class`."""
    given = "".join(f' {key.rstrip("_")}="{escape(one_line(value), quote=True)}"' for key, value in attributes.items())
    return Markup(f"<{name}{given}>{''.join(map(text, content))}</{name}>")


def section(title: str, name: str, *content: Any) -> Markup:
    """Return a section of a page, to which `#name` links."""
    return element("section", element("h2", title), *content, id=name)


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]], numeric: Iterable[int] = ()) -> Markup:
    """Return a table, which scrolls by itself if it is wider than the page. `numeric` are the columns with numbers, flushed right."""
    right = set(numeric)

    def cells(kind: str, row: Sequence[Any]) -> list[Markup]:
        return [element(kind, cell, **({"class_": "n"} if place in right else {})) for place, cell in enumerate(row)]

    head = element("thead", element("tr", *cells("th", columns)))
    body = element("tbody", *(element("tr", *cells("td", row)) for row in rows))
    return element("div", element("table", head, body), class_="scroll", tabindex=0)


def facts(entries: Iterable[tuple[Any, Any]]) -> Markup:
    """Return a list of names with what they are."""
    pairs = (element("div", element("dt", name), element("dd", value)) for name, value in entries)
    return element("dl", *pairs, class_="facts")


def note(*content: Any) -> Markup:
    """Return a line that tells of something that is missing or wrong."""
    return element("p", *content, class_="note")


def figure(svg: str, caption: str = "") -> Markup:
    """Return a picture, the text of an SVG that this package has made, with a caption."""
    below = [element("figcaption", caption)] if caption else []
    return element("figure", Markup(svg), *below)


def link(target: str, content: Any) -> Markup:
    """Return a link."""
    return element("a", content, href=target)


def thumbnail(image: Image.Image, description: str) -> Markup:
    """Return an image (RGB), made smaller if it is large, with its bytes in the page."""
    image = image.copy()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    small = max(image.size) <= SMALL
    file = io.BytesIO()
    # A photo as JPEG; of a small drawing all pixels.
    image.save(file, **({"format": "PNG"} if small else {"format": "JPEG", "quality": 82}))
    content = base64.b64encode(file.getvalue()).decode()
    source = f"data:image/{'png' if small else 'jpeg'};base64,{content}"
    alternative = escape(one_line(description), quote=True)
    return Markup(f'<img src="{source}" width="{image.width}" height="{image.height}" alt="{alternative}">')


def number(value: float | int | None, digits: int = 4) -> str:
    """Return a number for a reader: whole ones with separators, others with some digits; a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "—"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time for a reader, such as `2 h 05 min`."""
    if not math.isfinite(seconds):
        return "—"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def page(title: str, *content: Any) -> str:
    """Return a whole page."""
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    head = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(one_line(title))}</title>
<style>
{style}</style>
</head>
"""
    return f"{head}<body>\n<main>\n{''.join(map(text, content))}\n</main>\n</body>\n</html>\n"
