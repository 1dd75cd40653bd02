"""The terminal, or the file or pipe in its place."""

from rich.console import Console

PIPED_WIDTH = 200
"""Characters of a line where nobody knows how wide it may be."""


def make_console(*, stderr: bool = False) -> Console:
    """Names of files and texts of rows are printed as they are: nothing in them is markup."""
    console = Console(stderr=stderr, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console
