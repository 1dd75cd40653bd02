"""The requests that a build makes of an S3 store, counted by moto's server: for each block, and for the build.

    python tests/benchmarks/store_requests.py

Two builds of different sizes are compared: what grows with the blocks is a block's, the rest is the build's. Shards are
small here; one of more than 100 MB goes up in parts of 50 MB, two requests more and one for each part.
"""

import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from building import QWEN, small_rows, write_jsonl
from ports import free_port
from servers import BUCKET, Store, make_store, running
from tables import markdown_table

from pipeline import file_sizes
from pipeline.config import BuildConfig
from pipeline.launch import build
from schemas.manifest import MANIFEST
from schemas.profiles import VARIABLE

ROWS = (200, 600)
KINDS = ("PUT", "LIST", "GET", "HEAD", "DELETE")
_COLOUR = re.compile(r"\x1b\[\d+m")
_REQUEST = re.compile(r'"(GET|PUT|POST|DELETE|HEAD) (\S+) HTTP')


@dataclass(frozen=True)
class Counted:
    """Requests by kind, of a run over so many blocks."""

    blocks: int
    requests: Counter[str]


def count_requests(lines: Iterable[str]) -> Counter[str]:
    found = (_REQUEST.search(_COLOUR.sub("", line)) for line in lines)
    return Counter("LIST" if "list-type" in each[2] else each[1] for each in found if each)


def run_build(config: BuildConfig, log: Path) -> Counted:
    before = len(log.read_text().splitlines())
    plan = build(config, workers=1).plan
    time.sleep(0.5)  # for the server's last lines
    return Counted(len(plan.units), count_requests(log.read_text().splitlines()[before:]))


def run_builds(store: Store, scratch: Path) -> dict[str, list[Counted]]:
    """A fresh build, one that finds every block finished, and one that finds the data set published; of each size."""
    found: dict[str, list[Counted]] = {"fresh": [], "all finished before": [], "published before": []}
    for rows in ROWS:
        path, output = write_jsonl(scratch / "rows.jsonl", small_rows(rows)), store.new_folder()
        settings = {
            "output": output.url,
            "output_profile": output.profile,
            "seq_len": 512,
            "sources": [{"path": str(path), "transform": {"type": "openai"}}],
            "tokenizer": QWEN,
            "block_bytes": "4KiB",
            "certify": "none",
        }
        config = BuildConfig.model_validate(settings)
        found["fresh"].append(run_build(config, scratch / "server.log"))
        output.remove(MANIFEST)
        found["all finished before"].append(run_build(config, scratch / "server.log"))
        found["published before"].append(run_build(config, scratch / "server.log"))
    return found


def as_row(name: str, counted: Sequence[Counted]) -> list[str]:
    few, many = counted
    cells = []
    for kind in KINDS:
        each = (many.requests[kind] - few.requests[kind]) / (many.blocks - few.blocks)
        rest = many.requests[kind] - each * many.blocks
        cells.append(f"{each:.0f} x blocks + {rest:.0f}" if each else f"{rest:.0f}")
    return [name, *cells]


def request_table() -> str:
    file_sizes.FEW = 0  # as in a build of many files
    with tempfile.TemporaryDirectory() as name:
        scratch, port = Path(name), free_port()
        profiles = scratch / "profiles.yaml"
        profiles.write_text("{}\n")
        os.environ[VARIABLE] = str(profiles)
        server = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with running(server, port, scratch) as endpoint:
            found = run_builds(make_store("moto", f"s3://{BUCKET}", endpoint, profiles), scratch)
    return markdown_table(["build", *KINDS], [as_row(name, counted) for name, counted in found.items()])


if __name__ == "__main__":
    print(request_table())
