"""One tree of user-facing errors. Each message says what is wrong, where, and what to do about it.

Anything that is not a `PocketError` is a bug and keeps its traceback. Exit codes: 1 a verification or gate failed or a
rank was lost, 2 bad input, 73 the run folder is held by another process, 75 interrupted and resumable.
"""


class PocketError(Exception):
    """Base of all errors that are shown to users without a traceback."""

    exit_code = 2


class InputError(PocketError):
    """Bad settings, bad data, a missing path: the user can mend it."""


class DeviceError(InputError):
    """The recipe asks for a device that is not here."""


class CorruptionError(InputError):
    """A file does not hold the bytes that its manifest promises. The message names the file."""


class VerificationError(PocketError):
    """`verify` found a difference between what a run claims and what its files hold."""

    exit_code = 1


class GateFailed(PocketError):
    """A stop rule or quality gate of the recipe refused to go on."""

    exit_code = 1


class HeldError(PocketError):
    """Another living process works in the same run folder."""

    exit_code = 73


class RankLost(PocketError):
    """One of several processes that train together is gone; state is on disk and the same command continues."""

    exit_code = 1


class Interrupted(PocketError):
    """SIGTERM or SIGINT was honoured: state is on disk and the same command continues."""

    exit_code = 75
