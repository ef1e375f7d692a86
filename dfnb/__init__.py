"""Deepfake detection with CLIP as a notebook-first, leak-free study. Fake is the positive class (label 1)."""

__version__ = "0.1.0"


class UserError(ValueError):
    """Something the user can mend; its message is one sentence with the value and the way out.

    The command line prints the sentence without a traceback and leaves with exit code 2.
    """
