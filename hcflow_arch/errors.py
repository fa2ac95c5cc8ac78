class InputError(ValueError):
    """A wrong value that the user can correct. The message names it, says what is allowed and how to fix it.

    The commands print the message as one line. Every other exception is a bug and shows its traceback.
    """
