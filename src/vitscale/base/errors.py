"""The one kind of error that is meant for people."""


class UserError(Exception):
    """Something that the person at the keyboard can mend; printed as one line, without a traceback."""
