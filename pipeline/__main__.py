"""`python -m pipeline` is `packline`."""

from pipeline.cli import run

run()
