"""Values that options of the command line take."""

import argparse
import re
from datetime import timedelta
from typing import Literal


def age(text: str) -> timedelta:
    """A number and its unit, an hour at least: less could be a block that a build is at. Raises ArgumentTypeError."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    found = re.fullmatch(r"(\d{1,5})([mhd])", text)
    given = timedelta(**{units[found[2]]: int(found[1])}) if found else timedelta()
    if given < timedelta(hours=1):
        raise argparse.ArgumentTypeError(f"{text} is not an hour at least, as 90m, 24h or 7d are")
    return given


def generation(text: str) -> int | Literal["latest"]:
    """Raises ArgumentTypeError for what is neither the number of a generation nor `latest`."""
    if text == "latest":
        return "latest"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is neither a number from 0 up nor `latest`")
    return int(text)


def positive(text: str) -> int:
    """Raises ArgumentTypeError for what is no number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number
