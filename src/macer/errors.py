"""The errors that a user can mend: bad input, damaged files, impossible settings."""


class MacerError(ValueError):
    """Report something that the user can mend, in one clear line. The command prints it and exits with code 2."""


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
