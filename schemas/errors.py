"""The errors that are the user's to mend: each says what was seen and what to type."""


class ConfigError(ValueError):
    """A config file or a command line that cannot be used as it is."""


class DatasetError(ValueError):
    """A data set, or a file of it, that is missing, damaged, or of another kind than expected."""
