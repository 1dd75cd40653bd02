"""Reading packs: our data set against Hugging Face `datasets`, and what a larger data set costs a run.

speed    packs a second of processor time, in random order, the files in the page cache. Ours makes labels, positions
         and borders from the shard; `datasets` (torch format) has them ready, as columns of an Arrow file
start    seconds from the launch of `python -m train` to the first line of metrics.jsonl, with 10 MB and 10 GB of
         shards; and of processor time, which tells more where others share the machine. Beside it torch's import alone
memory   what reading 20,000 packs of them adds to the resident memory of a process

The 10 GB are files with holes, which take no disk. Run from the checkout: `python tests/benchmarks/loader.py`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from schemas.channels import Part, Role, pack_channel
from schemas.manifest import MANIFEST, Channels, Manifest, Rejects, ShardFile, TokenizerFacts, Totals, TurnCounts, Turns
from schemas.shard import Packs, ShardMeta, write_shard
from train.cache import file_sha256
from train.dataset import PackedDataset, collate
from train.order import PackOrder

SEQ_LEN, VOCAB_SIZE, HASH = 2048, 50_000, "a" * 64
META = ShardMeta(SEQ_LEN, HASH, 0, HASH)
SHARD_PACKS = 4000  # 41 MB
CONFIG = """
output: {output}
datasets: [{{path: {path}, loss_policy: all}}]
model: tiny
packs_per_step: 1
steps: 1
"""


class SparseFile:
    """A file for writing that leaves holes where only zeros are written."""

    closed = False

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, content: Any) -> int:
        array = np.frombuffer(content, dtype=np.uint8)
        if array.any():
            return self._file.write(content)
        self._file.seek(len(array), os.SEEK_CUR)
        return len(array)

    def flush(self) -> None:
        self._file.truncate(self._file.tell())
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self.flush()
        self._file.close()


def make_packs(ids: Any, channel: Any, lengths: Sequence[Sequence[int]]) -> Packs:
    documents = np.array([length for row in lengths for length in row], dtype=np.int32)
    zeros = np.zeros(len(documents), dtype=np.int32)
    offsets = np.cumsum([0, *map(len, lengths)]).astype(np.int32)
    return Packs(ids, channel, offsets, documents, zeros, zeros.astype(np.int64), zeros, None)


def random_packs(packs: int) -> Packs:
    """Documents of random lengths, 300 tokens in the mean: a prompt of a third, then an answer."""
    rng = np.random.default_rng(0)
    channel = np.zeros((packs, SEQ_LEN), dtype=np.uint8)
    lengths: list[list[int]] = []
    for row in channel:
        lengths.append([])
        at = 0
        while at < SEQ_LEN - 600:
            length = int(rng.integers(20, 580))
            row[at : at + length] = pack_channel(Role.ASSISTANT, Part.BODY)
            row[at : at + length // 3] = pack_channel(Role.USER, Part.BODY)
            lengths[-1].append(length)
            at += length
    return make_packs(rng.integers(0, VOCAB_SIZE, (packs, SEQ_LEN), dtype=np.int32), channel, lengths)


def zero_packs(packs: int) -> Packs:
    """Each one document of zeros."""
    shape = (packs, SEQ_LEN)
    return make_packs(np.zeros(shape, np.int32), np.zeros(shape, np.uint8), [[SEQ_LEN]] * packs)


def write_dataset(folder: Path, packs: Packs, shards: int) -> str:
    """A data set of so many equal shards."""
    (folder / "shards").mkdir(parents=True)
    files, sha256 = [], ""
    for number in range(shards):
        path = folder / f"shards/{number:05d}.arrow"
        sink = SparseFile(path)
        write_shard(packs, META, sink)
        sink.close()
        sha256 = sha256 or file_sha256(str(path))
        files.append(ShardFile(
            name=f"shards/{path.name}", bytes=path.stat().st_size, sha256=sha256, packs=len(packs),
            documents=len(packs.doc_lengths), tokens=int(packs.doc_lengths.sum()),
        ))  # fmt: skip
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    (folder / MANIFEST).write_bytes(make_manifest(files, packs).encode())
    return str(folder)


def make_manifest(files: list[ShardFile], packs: Packs) -> Manifest:
    bytes_, counts = np.unique(packs.channel, return_counts=True)
    histogram = {str(byte): count * len(files) for byte, count in zip(bytes_.tolist(), counts.tolist(), strict=True)}
    documents, tokens = len(packs.doc_lengths) * len(files), sum(file.tokens for file in files)
    rows = len(packs) * len(files)
    return Manifest(
        id=HASH, recipe_id=HASH, seq_len=SEQ_LEN, vocab_size=VOCAB_SIZE, bos_id=None, eos_id=None, pad_id=0, end_ids=[],
        tokenizer=TokenizerFacts(kind="huggingface", sha256=HASH, engine="none", libraries={}), chat_template=None,
        clock="2026-01-01T00:00:00Z", config={}, sources=[], shards=files, holdout=None,
        rejects=Rejects(counts={}, files=[]), channels=Channels(total=histogram, sources={}),
        turns=Turns(total=TurnCounts(), sources={}),
        totals=Totals(rows=0, rejects=0, packs=rows, documents=documents, tokens=tokens, truncated=0, straddling=0),
        fill=tokens / (rows * SEQ_LEN), certificate=None, generation=0, parent=None,
    )  # fmt: skip


def hugging_face(folder: Path, ours: PackedDataset) -> Any:
    """The same rows as `datasets` has them, memory-mapped too."""
    import datasets

    datasets.disable_progress_bars()
    rows = [ours[number] for number in range(len(ours))]
    table = {name: [row[name].numpy() for row in rows] for name in ours.columns}
    columns = {name: to_arrow(values) for name, values in table.items()}
    datasets.Dataset(pa.table(columns)).save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder)).with_format("torch")


def to_arrow(rows: list[Any]) -> pa.Array:
    """Lists of one length where they have one."""
    if len({len(row) for row in rows}) > 1:
        return pa.array(rows)
    return pa.FixedSizeListArray.from_arrays(np.concatenate(rows), len(rows[0]))


def packs_per_second(read: Callable[[Any, list[int]], None], dataset: Any, numbers: list[int]) -> float:
    began = time.process_time()
    read(dataset, numbers)
    return len(numbers) / (time.process_time() - began)


def one_by_one(dataset: Any, numbers: list[int]) -> None:
    for number in numbers:
        dataset[number]


def in_batches(size: int) -> Callable[[Any, list[int]], None]:
    def read(dataset: Any, numbers: list[int]) -> None:
        for _ in DataLoader(dataset, batch_size=size, sampler=numbers, collate_fn=collate):
            pass

    return read


WAYS = {"one by one": one_by_one, "batches of 8": in_batches(8), "batches of 64": in_batches(64)}


def measure_speed(folder: Path, packs: int, repeats: int) -> None:
    path = write_dataset(folder / "ours", random_packs(packs), 1)
    numbers = np.random.default_rng(1).permutation(packs).tolist()
    print(f"{'':<26}{'ours':>10}{'datasets':>10}{'ratio':>8}")
    for columns in (["input_ids"], ["input_ids", "labels", "position_ids", "cu_seqlens"]):
        ours = PackedDataset(path, columns=columns)  # type: ignore[arg-type]
        theirs = hugging_face(folder / f"{len(columns)}", ours)
        assert all(torch.equal(ours[7][name], theirs[7][name]) for name in columns)
        print(", ".join(columns))
        for name, read in WAYS.items():
            rates = [[packs_per_second(read, dataset, numbers) for dataset in (ours, theirs)] for _ in range(repeats)]
            our, their = (statistics.median(column) for column in zip(*rates, strict=True))
            print(f"  {name:<24}{our:10,.0f}{their:10,.0f}{our / their:8.1f}")


Seconds = tuple[float, float]
"""By the clock, and of processor time."""


def seconds_to_first_step(folder: Path, path: str) -> Seconds:
    """The training process is ended after it."""
    output = Path(tempfile.mkdtemp(dir=folder))
    config = output / "config.yaml"
    config.write_text(CONFIG.format(output=output / "run", path=path))
    metrics = output / "run/metrics.jsonl"
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "train", str(config)], stdout=subprocess.DEVNULL)
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() in (None, 0), "the run failed"
        time.sleep(0.005)
    seconds = time.perf_counter() - began
    process.kill()
    return seconds, processor_time(process)


def seconds_to_import_torch() -> Seconds:
    began = time.perf_counter()
    used = processor_time(subprocess.Popen([sys.executable, "-c", "import torch"]))
    return time.perf_counter() - began, used


def processor_time(process: subprocess.Popen[bytes]) -> float:
    """Of a process that ends, in seconds."""
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime


def measure_start(folder: Path, paths: dict[str, str], repeats: int) -> None:
    seconds = [
        [seconds_to_import_torch(), *(seconds_to_first_step(folder, path) for path in paths.values())]
        for _ in range(repeats)
    ]
    print("launch to first step")
    for name, column in zip(("import torch", *paths), zip(*seconds, strict=True), strict=True):
        clock, processor = zip(*column, strict=True)
        print(
            f"  {name:<12} median {statistics.median(clock):6.2f} s  least {min(clock):6.2f} s  "
            f"of processor time least {min(processor):6.2f} s"
        )


def resident() -> dict[str, int]:
    """MiB: now, of anonymous memory and of mapped files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) >> 10 for line in lines if line[0] in ("VmRSS:", "RssAnon:", "RssFile:")}


def added_memory(path: str, packs: int) -> dict[str, int]:
    """MiB more than before, the most at any of 50 looks."""
    PackedDataset(path, loss_policy="all")[0]  # what is imported and made once
    before = resident()
    dataset = PackedDataset(path, loss_policy="all")
    order = PackOrder([shard.packs for shard in dataset.packs.shards], seed=0)
    most = dict.fromkeys(before, 0)
    for start in range(0, packs, packs // 50):
        for number in order.take(start, packs // 50).tolist():
            dataset[number]
        most = {name: max(most[name], now - before[name]) for name, now in resident().items()}
    return most


def measure_memory(paths: dict[str, str], packs: int) -> None:
    print(f"resident memory that reading {packs:,} packs adds, MiB")
    for name, path in paths.items():
        with get_context("spawn").Pool(1) as pool:
            print(f"  {name:<10}", pool.apply(added_memory, (path, packs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", default=["speed", "start", "memory"])
    parser.add_argument("--packs", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "speed" in arguments.what:
            measure_speed(folder / "speed", arguments.packs, arguments.repeats)
        if {"start", "memory"} & set(arguments.what):
            paths = {
                "10 MB": write_dataset(folder / "small", zero_packs(1000), 1),
                "10 GB": write_dataset(folder / "large", zero_packs(SHARD_PACKS), 250),
            }
        if "memory" in arguments.what:
            measure_memory(paths, 20_000)
        if "start" in arguments.what:
            measure_start(folder, paths, arguments.repeats)


if __name__ == "__main__":
    main()
