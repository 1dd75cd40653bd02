"""A worker process of the embedded runner: Beam's own harness, with Beam's log lines kept quiet.

Started as `python -P -m pipeline.worker`, so that no file of the working folder is imported in the place of ours.
"""

import logging
import os

DEBUG_VARIABLE = "PACKLINE_DEBUG"


def main() -> None:
    if not os.environ.get(DEBUG_VARIABLE):
        logging.disable(logging.CRITICAL)
    from apache_beam.runners.worker.sdk_worker_main import main as run_harness

    run_harness([])


if __name__ == "__main__":
    main()
