"""The one error that a person at the command line sees as a single line."""


class UserError(Exception):
    """Something the user can mend; its text is the whole message."""
