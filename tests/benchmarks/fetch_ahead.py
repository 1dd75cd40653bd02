"""How long ranks wait for packs of a data set on a store that is far away.

    python tests/benchmarks/fetch_ahead.py [--ranks 4] [--max-gib 0.5] [--shuffle-shards 16]

The store is moto's, behind a proxy with 100 ms a request and 50 MB/s in all. The ranks of one node are processes that
feed themselves as the trainer does, meet at each step, and sleep for as long as 8 H100s would compute, which do 60,000
tokens/s. A window of 16 shards of 41 MB lasts 36 minutes of that, so the run begins shortly before the end of the first
window, with an empty cache, and ends shortly after the beginning of the second.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import numpy as np
from loader import META, SEQ_LEN, make_manifest, make_packs
from ports import free_port
from servers import BUCKET, make_store, running
from tables import markdown_table

from schemas.manifest import MANIFEST, ShardFile
from schemas.policy import PRESETS
from schemas.profiles import VARIABLE
from schemas.shard import write_shard
from schemas.store import Folder
from train.cache import file_sha256
from train.feed import Feeder, feed_steps, read_ahead
from train.groups import Groups
from train.mixture import Mixture
from train.packs import ShardedPacks

RATE = 60_000
LATENCY, BANDWIDTH = 0.1, 50e6
SHARD_PACKS, SHARDS = 4000, 32
PACKS_PER_STEP = 64
STEPS_BEFORE, STEPS_AFTER = 20, 20


def upload(folder: Folder, scratch: Path) -> None:
    """Shards of random tokens, each its own."""
    rng, files = np.random.default_rng(0), []
    for number in range(SHARDS):
        shape = (SHARD_PACKS, SEQ_LEN)
        ids = rng.integers(0, 50_000, shape, dtype=np.int32)
        packs = make_packs(ids, np.full(shape, 75, np.uint8), [[SEQ_LEN]] * SHARD_PACKS)
        path = scratch / "shard"
        with path.open("wb") as sink:
            write_shard(packs, META, sink)
        name = f"shards/{number:05d}.arrow"
        folder.write(name, path.read_bytes())
        tokens = SHARD_PACKS * SEQ_LEN
        files.append(ShardFile(
            name=name, bytes=path.stat().st_size, sha256=file_sha256(path), packs=SHARD_PACKS, documents=SHARD_PACKS,
            tokens=tokens,
        ))  # fmt: skip
    folder.write(MANIFEST, make_manifest(files, packs).encode())


def open_packs(folder: Folder, cache: Path, max_gib: float | None) -> ShardedPacks:
    limit = {} if max_gib is None else {"cache_bytes": int(max_gib * (1 << 30))}  # the code before had none
    return ShardedPacks(folder.url, profile=folder.profile, cache=cache, **limit)


def read_rank(
    rank: int, options: argparse.Namespace, folder: Folder, cache: Path, meet: Barrier, waits: "Queue[Any]"
) -> None:
    """Puts (rank, seconds waited for each step's packs)."""
    dataset = open_packs(folder, cache, options.max_gib)
    feeder = Feeder(
        datasets=[dataset], tables=[PRESETS["all"].table()], groups=Groups(["data"], [[""]], by_source=False),
        rank=rank, ranks=options.ranks, packs_per_microbatch=4, balance=True, per_document=False, pinned=False,
    )  # fmt: skip
    mixture = Mixture([dataset], None, 0, options.shuffle_shards)
    first = options.shuffle_shards * SHARD_PACKS - STEPS_BEFORE * PACKS_PER_STEP
    sizes = [PACKS_PER_STEP] * (STEPS_BEFORE + STEPS_AFTER)
    seconds = []
    meet.wait()
    for _, waited in read_ahead(feed_steps(feeder, mixture, (first,), sizes, [float("inf")])):
        seconds.append(waited)
        meet.wait()  # as at the step's first collective operation
        time.sleep(PACKS_PER_STEP * SEQ_LEN / RATE)
    waits.put((rank, seconds))


def measure(options: argparse.Namespace, folder: Folder, cache: Path, counts: str) -> list[str]:
    context = get_context("spawn")
    meet, waits = context.Barrier(options.ranks), context.Queue()
    ranks = [
        context.Process(target=read_rank, args=(rank, options, folder, cache, meet, waits), daemon=True)
        for rank in range(options.ranks)
    ]
    for process in ranks:
        process.start()
    found = dict(waits.get() for _ in ranks)
    for process in ranks:
        process.join()
    longest = [max(step) for step in zip(*found.values(), strict=True)]  # all wait for the last
    later, computed = sum(longest[1:]), (len(longest) - 1) * PACKS_PER_STEP * SEQ_LEN / RATE
    asked = json.loads(urllib.request.urlopen(counts).read())
    bytes_read = options.shuffle_shards * 2 * open_packs(folder, cache, None).shards[0].bytes
    return [
        f"{longest[0]:.1f} s", f"{later:.2f} s", f"{later / (later + computed):.1%}", f"{max(longest[1:]):.2f} s",
        f"{statistics.median(longest[1:]) * 1e3:.1f} ms", f"{asked['requests']}", f"{asked['bytes'] / bytes_read:.2f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--max-gib", type=float)
    parser.add_argument("--shuffle-shards", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        profiles = scratch / "profiles.yaml"
        profiles.write_text("{}\n")
        os.environ[VARIABLE] = str(profiles)
        port, slow = free_port(), free_port()
        moto = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        script = str(Path(__file__).with_name("slow_store.py"))
        proxy = [sys.executable, script, str(slow), str(port), str(LATENCY), str(BANDWIDTH)]
        with running(moto, port, scratch) as endpoint:
            near = make_store("near", f"s3://{BUCKET}", endpoint, profiles)
            upload(Folder(f"{near.url}/data", "near"), scratch)
            with running(proxy, slow, scratch) as address:
                profiles.write_text(profiles.read_text().replace(endpoint, address))
                row = measure(options, Folder(f"{near.url}/data", "near"), scratch / "cache", f"{address}/-/counts")
    head = ["first step", "waited later", "share", "longest", "median", "requests", "bytes of two windows"]
    print(markdown_table(head, [row]))


if __name__ == "__main__":
    main()
