"""The errors that are the user's to mend: each says what was seen and what to type."""

import errno


class ConfigError(ValueError):
    """A config file or a command line that cannot be used as it is."""


class DatasetError(ValueError):
    """A data set, or a file of it, that is missing, damaged, or of another kind than expected."""


class StoreError(DatasetError, OSError):
    """What a store answered, or that it did not: the file, its words, how often it was asked. An OSError as a disk's
    are, too."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EIO
