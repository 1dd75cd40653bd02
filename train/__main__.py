"""Train on a packed data set.

    torchrun --nproc-per-node 8 -m train CONFIG.yaml --set steps=100
    python -m train CONFIG.yaml

A folder with a train.py or schemas.py of its own is in the way of `-m train`, which looks there first. In such a
folder use one of

    PYTHONSAFEPATH=1 torchrun --nproc-per-node 8 -m train CONFIG.yaml
    torchrun --nproc-per-node 8 --no-python packline-train CONFIG.yaml

Exit codes: 0 trained, 2 config or data set cannot be used, 1 anything else (torchrun makes 1 of every failure).
"""

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    arguments = _parse_arguments()
    from schemas.errors import ConfigError, DatasetError
    from schemas.settings import load_settings
    from train.config import TrainConfig

    try:
        config = load_settings(TrainConfig, arguments.config, arguments.set)
        from train.loop import train

        train(config)
    except ModuleNotFoundError as error:
        print(f"packline-train: {error}; install the trainer's needs: pip install 'packline[train]'", file=sys.stderr)
        return 1
    except (ConfigError, DatasetError) as error:
        rank = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
        print(f"packline-train: {rank}{error}", file=sys.stderr)
        return 2
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="packline-train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key: seed=1")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
