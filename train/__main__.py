"""Train on packed data sets.

    torchrun --nproc-per-node 8 -m train CONFIG.yaml --set steps=100
    python -m train CONFIG.yaml
    torchrun --nproc-per-node 8 -m train CONFIG.yaml --resume     go on from the newest checkpoint, if there is one
    torchrun --nproc-per-node 8 -m train CONFIG.yaml --export     write the newest checkpoint as a model, and end
    torchrun --nproc-per-node 8 -m train CONFIG.yaml --doctor     show that documents are isolated, and end

A folder with a train.py or schemas.py of its own is in the way of `-m train`, which looks there first. In such a
folder use one of

    PYTHONSAFEPATH=1 torchrun --nproc-per-node 8 -m train CONFIG.yaml
    torchrun --nproc-per-node 8 --no-python packline-train CONFIG.yaml

SIGTERM, SIGINT or SIGUSR1 to a rank lets all ranks finish the step, save a checkpoint and end.

Exit codes: 0 done, or stopped by a signal and saved; 2 config, model or data set cannot be used; 1 anything else, the
doctor's findings, a loss that is no finite number and a checkpoint that cannot be written included (torchrun makes 1 of
every failure).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn


def main() -> int:
    arguments = _parse_arguments()
    from schemas.errors import ConfigError, DatasetError

    try:
        _run(arguments)
    except ModuleNotFoundError as error:
        print(f"packline-train: {error}; install the trainer's needs: pip install 'packline[train]'", file=sys.stderr)
        return 1
    except (ConfigError, DatasetError) as error:
        _complain(error)
        return 2


def _run(arguments: argparse.Namespace) -> NoReturn:
    from schemas.errors import ConfigError, DatasetError
    from schemas.settings import load_settings
    from train.config import TrainConfig

    config = load_settings(TrainConfig, arguments.config, arguments.set)
    from train.checkpoint import CheckpointError
    from train.loop import train
    from train.nonfinite import NonFiniteStep
    from train.parallel import end_process

    try:
        if arguments.mode == "doctor":
            from train.doctor import examine

            end_process(0 if examine(config) else 1)
        train(config, arguments.mode)
    except (ConfigError, DatasetError, NonFiniteStep, CheckpointError) as error:
        _complain(error)
        if isinstance(error.__cause__, CheckpointError):  # nor could be saved what was done before
            _complain(error.__cause__)
        end_process(2 if isinstance(error, ConfigError | DatasetError) else 1)
    except ModuleNotFoundError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # the interpreter's own way out waits for threads that fetch shards
        sys.excepthook(type(error), error, error.__traceback__)
        end_process(1)
    end_process(0)


def _complain(error: Exception) -> None:
    rank = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
    print(f"packline-train: {rank}{error}", file=sys.stderr)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="packline-train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key: seed=1")
    modes = parser.add_mutually_exclusive_group()
    for mode, what in _MODES.items():
        modes.add_argument(f"--{mode}", action="store_const", const=mode, dest="mode", help=what)
    parser.set_defaults(mode="start")
    return parser.parse_args()


_MODES = {
    "resume": "go on from the newest complete checkpoint of the output, or start where there is none",
    "export": "write the newest complete checkpoint as a Hugging Face folder, and end",
    "doctor": "run real packs packed and one document at a time, compare the losses, and end",
}


if __name__ == "__main__":
    sys.exit(main())
