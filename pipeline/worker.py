"""A worker process of the embedded runner: Beam's own harness, with Beam's log lines kept quiet.

Started as `python -P -m pipeline.worker`, so that no file of the working folder is imported in the place of ours.
"""

import logging
import os
import sys
import threading
import time

DEBUG_VARIABLE = "PACKLINE_DEBUG"


def main() -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if not os.environ.get(DEBUG_VARIABLE):
        logging.disable(logging.CRITICAL)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the harness prints tracebacks there; ours go to the launcher
    from apache_beam.runners.worker.sdk_worker_main import main as run_harness

    run_harness([])


def _end_with(launcher: int) -> None:
    """End this process once the launching one is gone; Beam's harness would wait for it for ever."""
    while os.getppid() == launcher:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
