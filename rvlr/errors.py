"""The one exception for everything a user can mend: bad input, bad configuration, files that do not match."""


class UserError(Exception):
    """Names the file, key or line, what was found, what is allowed and how to mend it.

    The command line prints the message without a traceback and exits with status 1.
    """
