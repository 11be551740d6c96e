"""FORMAT.md §1.5: what machines, disks and attachments are called, and its one spelling in texts."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote, unquote_to_bytes

from primitives import require

_TURNS = {"\u061c", "\u200e", "\u200f", *map(chr, range(0x2028, 0x202F)), *map(chr, range(0x2066, 0x206A))}
# What Unicode calls white space, and Python's strip() takes off more than.
_SPACES = " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"


def title(spelled: str) -> str:
    """The title that is spelled so, if nothing else is spelled so and it is not spelled another way."""
    try:
        text = unquote_to_bytes(spelled).decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    require(quote(text, safe="") == spelled, f"{spelled} is not the spelling of a name")
    require(1 <= len(text.encode("utf-8")) <= 255 and text not in (".", "..", "-"), "a name of no or too many bytes, or with a meaning")
    require(text == text.strip(_SPACES), "a name starts or ends with a space")
    require(not any(unicodedata.category(letter) == "Cc" or letter in _TURNS for letter in text), "a name holds a control character")
    require(unicodedata.is_normalized("NFC", text), "a name is not in normalization form C")
    return text
