class InputError(ValueError):
    """A wrong value that the user can mend: the message names it, says what is allowed and how to fix it.

    The commands print it as one line, without a traceback; every other exception is a bug and keeps its traceback.
    """
