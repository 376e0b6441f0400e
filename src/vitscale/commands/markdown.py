"""Strangers' words (class names, licences, branches) in our Markdown: as text, never as markup."""

import re

from vitscale.base.errors import shown

# Everything that is markup inside a line or a cell, or makes an address a link. A "_" inside a word is none.
MARKUP = re.compile(r"[\\`*\[\]<>&|~$#]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=[wW]{3})\.")


def plain(text: str) -> str:
    """Return a text as Markdown that shows just that, on one line, in a table's cell too."""
    return MARKUP.sub(r"\\\g<0>", shown(text))


def code(text: str) -> str:
    """Return a text as code, or as plain text where it has what ends a piece of code or a cell."""
    return plain(text) if re.search(r"[`|]", text) or not text.strip() else f"`{shown(text)}`"
