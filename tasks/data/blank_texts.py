"""Which texts count as blank: those with nothing to see, be it of spaces or of marks that take no room."""

import unicodedata


#: The categories of characters that show nothing by themselves: spaces, control and format characters such as the zero-width
#: space and the byte-order mark, and marks that combine with a letter before them.
CATEGORIES = ("Zs", "Zl", "Zp", "Cc", "Cf", "Mn", "Me")
#: Letters and symbols that show nothing: Hangul fillers and the empty pattern of braille.
FILLERS = "\u115f\u1160\u3164\uffa0\u2800"
#: The same as a regular expression of RE2, which pyarrow has.
BLANK = r"\A[" + "".join(rf"\p{{{category}}}" for category in CATEGORIES) + FILLERS + r"]*\z"


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing."""
    return all(unicodedata.category(letter) in CATEGORIES or letter in FILLERS for letter in text)


def trimmed(text: str) -> str:
    """Return a text without spaces at its ends; an empty one if it is blank."""
    stripped = text.strip()
    return "" if is_blank(stripped) else stripped
