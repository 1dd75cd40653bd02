"""The demo's own check: the loss ends below half of ln(vocabulary), which no untrained model reaches."""

import json
import math
import sys
from pathlib import Path


def main() -> None:
    folder = Path(sys.argv[1])
    vocab_size = json.loads((folder / "shards" / "manifest.json").read_bytes())["vocab_size"]
    last = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    wanted = math.log(vocab_size) / 2
    print(f"loss {last['loss']:.3f} after {last['step']} steps; half of ln({vocab_size}) is {wanted:.3f}")
    if not last["loss"] < wanted:
        sys.exit("the loss did not fall below half of ln(vocabulary)")


if __name__ == "__main__":
    main()
