"""Errors that a user can mend, and errors of one sample."""

from __future__ import annotations


class UserError(ValueError):
    """A user's mistake, told in one sentence that names the file, field or value and what is allowed.

    The command line prints the sentence and leaves with status 2; no traceback is shown.
    """


class SampleError(RuntimeError):
    """One sample cannot be answered, with the reason in one sentence that names the file; the others can.

    A failed sample is a failure with a reason: never an answer, never left out of a count in silence.
    """
