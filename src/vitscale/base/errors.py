"""The one kind of error that is meant for people, and how file names stand in it."""


class UserError(Exception):
    """Something that the person at the keyboard can mend; printed as one line, without a traceback."""


def shown(text: str) -> str:
    """Return a text with file names in it as one line: what a terminal can't print is escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
