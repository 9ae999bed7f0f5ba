"""The error that a user is meant to read."""


class RunError(Exception):
    """Something a person can mend: the message is one line that says what was expected, what was
    received, and what to do."""
