"""Errors that a user can mend: one line that says what, where and how."""


class SimjaxError(Exception):
    """Something the user can put right. Printed as one line; exit status 1.

    The message names the file, line or key at fault and says what to do.
    """


class UsageError(SimjaxError):
    """The command was called wrongly: an unknown key, a value out of its range. Exit status 2."""


class DivergedError(SimjaxError):
    """Training has come to a loss or gradient that is not finite."""


class NotFiniteError(SimjaxError):
    """A model gives embeddings that are not finite."""
