"""Errors whose message is for the user: the value, the reason, the fix. A program ends with it, in one line."""


class ToldError(Exception):
    """The message says all there is to say; a traceback would add nothing (``POLYTUNE_DEBUG=1`` shows it)."""


class UsageError(ToldError, ValueError):
    """The command line or the YAML is wrong; the message names the value and the fix."""
