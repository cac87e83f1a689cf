"""The errors that are a person's to mend: bad input, bad files, impossible settings."""


class MacerError(Exception):
    """Something the user can mend. Its text is one clear line; the command prints it and exits with 2."""


class DataError(MacerError):
    """A data set that is missing, cut off, malformed or not what its name says."""


class CheckpointError(MacerError):
    """A checkpoint that cannot be read, is not ours, or does not fit the network."""


class SettingsError(MacerError):
    """Settings that are impossible, or that contradict what a directory already holds."""


class RecordsError(MacerError):
    """A file of certificates that cannot be read as one."""
