"""Errors that a user can mend: one line that says what, where and how."""

import re


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


def check_local(what: str, path: object) -> None:
    """Refuse a path that looks like a URL.

    Args:
        what: Key or argument, for the message.
        path: What was given; None is nothing.

    Raises:
        UsageError: It begins with a scheme, as gs:// and s3:// do.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise UsageError(
            f"{what} is {path}: places on the network are not reached from here; copy the files, "
            "or mount the bucket (gcsfuse, s3fs) and give its folder"
        )
