"""How a command ends: a number, and where it failed one clear message."""

import sys

from pipeline.failures import BlockFailure, BudgetExceeded, RunnerFailed
from schemas.errors import ConfigError, DatasetError

BUILT, FAILED, BAD_CONFIG, OVER_BUDGET, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """exit codes:
  0  built, or built already; a watch that was asked to end
  1  a failure while building: bad input, a lost worker, a damaged data set, a row that is not what is served
  2  a config or a command that cannot be used; more than half of a source's first rows rejected
  3  more rows rejected than max_reject_fraction allows, or fewer turns with an end token than min_terminated asks for:
     nothing is published"""


def explain(error: Exception) -> int:
    """Print what went wrong; the exit code that goes with it."""
    if isinstance(error, ConfigError):
        code = BAD_CONFIG
    elif isinstance(error, BudgetExceeded):
        code = OVER_BUDGET
    else:
        code = FAILED
    if isinstance(error, BlockFailure):
        text = error.message
    elif isinstance(error, ConfigError | DatasetError | BudgetExceeded | RunnerFailed):
        text = str(error)
    elif isinstance(error, ModuleNotFoundError):
        text = f"{error}; install what the pipeline needs with: pip install 'packline[pipeline]'"
    else:
        text = f"{type(error).__name__}: {error}\nrun with --debug for the traceback"
    print(f"packline: {text}", file=sys.stderr)
    return code
