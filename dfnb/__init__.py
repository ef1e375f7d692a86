"""Deepfake detection with CLIP, a notebook-first, leak-aware study; fake is the class 1."""

__version__ = "0.2.0"

KEY = ["corpus", "manipulation", "video"]  # the columns that identify a video in every table
SPLITS = ("train", "validation", "test")


class UserError(ValueError):
    """Something that the user can fix; its message is one sentence with the value and the way out.

    The command line prints the sentence without a traceback and exits with code 2.
    """


class DataError(UserError):
    """A `UserError` about the corpus: a missing, unreadable or contradictory file."""
