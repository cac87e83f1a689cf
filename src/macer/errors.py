"""The errors that a user can mend: bad input, damaged files, impossible settings."""

import difflib
from collections.abc import Sequence


class MacerError(ValueError):
    """Report something that the user can mend, in one clear line. The command prints it and exits with code 2.

    A setting that is to be given stands in backticks, `num_classes` or `compile=no`, which the command prints as its
    option: --num-classes, --compile no.
    """


class DataError(MacerError):
    """Report a data set that is missing, cut off, malformed or not what its name says."""


class CheckpointError(MacerError):
    """Report a checkpoint that cannot be read, was written by another program, or does not fit the network."""


class SettingsError(MacerError):
    """Report settings that are impossible, or that contradict what a directory already holds."""


class UnknownName(SettingsError, KeyError):
    """Report that no network, data set, recipe, method, normalisation or attack has the given name."""

    def __str__(self) -> str:
        # KeyError shows repr(message), with quotation marks around it.
        return str(self.args[0])


class RecordsError(MacerError):
    """Report a file that does not hold certificates in a known format."""


class CertificateError(RecordsError):
    """Report a certificate of ours that was changed, or that does not follow from what it records."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def similar_to(name: str, names: Sequence[str]) -> str:
    """Return the part of a message that tells which names are similar to an unknown one; nothing where none is.

    >>> similar_to("mnist-macer-1", ["mnist-macer-1.0", "cifar10-consistency-1.0"])
    '; similar names: mnist-macer-1.0'
    """
    close = difflib.get_close_matches(name, names)
    return f"; similar names: {', '.join(close)}" if close else ""


class needs:
    """Turn the failed import of an optional library, inside a `with` block, into one line that says what to install.

    Args:
        extra: the extra of this distribution that installs the library.

    Raises:
        MissingLibrary: a library is not installed.
    """

    def __init__(self, extra: str) -> None:
        self.extra = extra

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ModuleNotFoundError):
            raise MissingLibrary(
                f"{error.name} is not installed; it comes with the extra {self.extra!r}: "
                f'pip install ".[{self.extra}]" in the directory of macer'
            ) from error


class MissingLibrary(MacerError, ImportError):
    """Report that an optional library is not installed."""
