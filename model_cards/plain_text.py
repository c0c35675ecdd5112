"""Escape users' strings for Markdown, HTML and code, so that they show as text and act as no markup."""

import html
import re


#: What Markdown reads as markup inside a line, with links that it makes of plain addresses. An underscore inside a word is none.
MARKUP = re.compile(r"[\\`*{}\[\]#|~@$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.")


#: Characters of a text that a card shows; the record of the run has all.
LONGEST = 1000


def one_line(text: object) -> str:
    """Return a text without line breaks and characters that cannot be seen, with single spaces, cut if it is very long."""
    seen = "".join(letter if letter.isprintable() else " " for letter in str(text))
    line = " ".join(seen.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def plain(text: object) -> str:
    """Return a text for a line of Markdown, on which it is shown as it is: neither Markdown nor HTML."""
    escaped = MARKUP.sub(lambda found: f"\\{found[0]}", one_line(text))
    return html.escape(escaped, quote=False)


def in_metadata(text: object) -> str:
    """Return a text for metadata, which pages may show as they are."""
    return html.escape(one_line(text), quote=False)


def literal(text: str) -> str:
    """Return a string as it is written in Python code, on one line and without what HTML or Markdown would read as markup."""
    written = repr(text)
    if written[1:-1] == text and '"' not in text:
        written = f'"{text}"'
    return re.sub(r"[<>&`]", lambda found: f"\\x{ord(found[0]):02x}", written)


def slug(text: object) -> str:
    """Return a name as the Hub writes those of data sets and metrics: lower case, with `-` for all that is no letter or digit."""
    return re.sub(r"[^a-z0-9._]+", "-", one_line(text).lower()).strip("-._")


def is_hub_id(name: str | None) -> bool:
    """Return whether a name may be that of a repository on the Hub, and not that of a folder."""
    return bool(name) and re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name, flags=re.ASCII) is not None
