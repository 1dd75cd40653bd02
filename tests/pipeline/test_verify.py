"""`packline verify`: a sound data set has no findings, and each kind of damage has one that names it."""

import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from pipeline.verify import verify
from schemas.channels import NO_LOSS, Part, Role, pack_channel
from schemas.errors import DatasetError
from schemas.manifest import Manifest
from schemas.shard import Packs, ShardMeta, write_shard

REPOSITORY = Path(__file__).parents[2]
SEQ_LEN, VOCAB_SIZE, PAD_ID = 16, 50, 49
META = ShardMeta(SEQ_LEN, "b" * 64, PAD_ID, "c" * 64)
BODY = pack_channel(Role.ASSISTANT, Part.BODY, last_turn=True)
USER = pack_channel(Role.USER, Part.BODY)
FIRST = NO_LOSS | USER

FIRST_SHARD, SECOND_SHARD = "shards/00000-000-a.arrow", "shards/00000-001-a.arrow"
TURNS = {"trained": 9, "terminated": 8}
HOLDOUT, REJECTS = "holdout/00000-000-a.arrow", "rejects/00000-000-a.jsonl.zst"


@dataclass
class Dataset:
    """What a test may change before it is written: packs and reject lines, and then the manifest's values."""

    packs: dict[str, Packs]
    rejects: bytes = b"two rejects"
    metas: dict[str, ShardMeta] = field(default_factory=dict)

    def change(self, name: str, column: str, place: Any, value: Any) -> None:
        values = getattr(self.packs[name], column).copy()
        values[place] = value
        self.packs[name] = replace(self.packs[name], **{column: values})


def make_packs(lengths: list[list[int]], first_row: int, weights: bool = False) -> Packs:
    """Packs of documents of these lengths, in rows one after the other; every second row is of source 1."""
    shape = (len(lengths), SEQ_LEN)
    input_ids, channel = np.full(shape, PAD_ID, np.int32), np.zeros(shape, np.uint8)
    for pack, documents in enumerate(lengths):
        at = 0
        for length in documents:
            input_ids[pack, at : at + length] = np.arange(length) + pack + 1
            channel[pack, at : at + length] = [FIRST, USER, *[BODY] * length][:length]
            at += length
    rows = np.arange(first_row, first_row + sum(map(len, lengths)))
    return Packs(
        input_ids=input_ids,
        channel=channel,
        doc_offsets=np.cumsum([0, *map(len, lengths)]).astype(np.int32),
        doc_lengths=np.array([length for documents in lengths for length in documents], np.int32),
        doc_source=(rows % 2).astype(np.int32),
        doc_position=rows * 100,
        doc_piece=np.zeros(len(rows), np.int32),
        weight=np.where(channel == BODY, 0.5, 0).astype(np.float32) if weights else None,
    )


def make_dataset(weights: bool = False) -> Dataset:
    return Dataset(
        {
            FIRST_SHARD: make_packs([[6, 7], [16], [3, 2, 9]], 0, weights),
            SECOND_SHARD: make_packs([[5], [4, 4]], 6, weights),
            HOLDOUT: make_packs([[8, 3]], 9, weights),
        }
    )


def histograms(packs: list[Packs]) -> dict[str, dict[str, int]]:
    """The channel byte by source, counted one token at a time."""
    counts: dict[int, Counter[int]] = {}
    for part in packs:
        for pack in range(len(part)):
            documents = part.documents(pack)
            spans = zip(part.doc_source[documents], part.doc_lengths[documents], strict=True)
            sources = [int(source) for source, length in spans for _ in range(length)]
            for source, byte in zip(sources, part.channel[pack].tolist(), strict=False):
                counts.setdefault(source, Counter())[byte] += 1
    return {str(source): {str(byte): found[byte] for byte in sorted(found)} for source, found in counts.items()}


def total(by_source: dict[str, dict[str, int]]) -> dict[str, int]:
    counter: Counter[str] = Counter()
    for histogram in by_source.values():
        counter.update(histogram)
    return dict(counter)


def write_file(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_packs(folder: Path, name: str, packs: Packs, meta: ShardMeta) -> dict[str, Any]:
    sink = BytesIO()
    write_shard(packs, meta, sink)
    counts = {"packs": len(packs), "documents": len(packs.doc_lengths), "tokens": int(packs.doc_lengths.sum())}
    return {**write_file(folder, name, sink.getvalue()), **counts}


def write_dataset(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """Write the files; the values of a manifest that describes them as they are."""
    files = {
        name: write_packs(folder, name, packs, dataset.metas.get(name, META)) for name, packs in dataset.packs.items()
    }
    training = [packs for name, packs in dataset.packs.items() if name != HOLDOUT]
    shards = [file for name, file in files.items() if name != HOLDOUT]
    by_source = histograms(training)
    sums = {key: sum(shard[key] for shard in shards) for key in ("packs", "documents", "tokens")}
    return {
        "format": "1",
        "id": "a" * 64,
        "recipe_id": "b" * 64,
        "seq_len": SEQ_LEN,
        "vocab_size": VOCAB_SIZE,
        "bos_id": None,
        "eos_id": 1,
        "pad_id": PAD_ID,
        "end_ids": [1],
        "tokenizer": {"kind": "huggingface", "sha256": "c" * 64, "engine": "none", "libraries": {}},
        "chat_template": None,
        "clock": "2024-07-26",
        "config": {},
        "sources": [{"path": "a", "size": 1, "rows": 7}, {"path": "b", "size": 1, "rows": 6}],
        "shards": shards,
        "holdout": {"share": 0.1, "shards": [files[HOLDOUT]], "channels": total(histograms([dataset.packs[HOLDOUT]]))},
        "rejects": {
            "counts": {"empty": 1, "too_long": 1},
            "files": [{**write_file(folder, REJECTS, dataset.rejects), "rows": 2}],
        },
        "channels": {"total": total(by_source), "sources": by_source},
        "turns": {"total": {**TURNS}, "sources": {"0": {**TURNS}, "1": {}}},
        "totals": {"rows": 13, "rejects": 2, "truncated": 0, "straddling": 0, **sums},
        "fill": 0.75,
        "certificate": None,
        "generation": 0,
        "parent": None,
    }


def findings(folder: Path, values: dict[str, Any], *, deep: bool) -> list[str]:
    (folder / "manifest.json").write_bytes(Manifest.model_validate(values).encode())
    return list(verify(str(folder), deep=deep))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_a_sound_data_set_has_no_findings(tmp_path: Path, deep: bool, weights: bool) -> None:
    values = write_dataset(tmp_path, make_dataset(weights))
    assert findings(tmp_path, values, deep=deep) == []
    assert list(verify(f"{tmp_path}/manifest.json", deep=deep)) == []
    assert list(verify(f"file://{tmp_path}", deep=deep)) == []


def test_a_data_set_without_holdout_and_rejects_is_sound(tmp_path: Path) -> None:
    dataset = make_dataset()
    values = write_dataset(tmp_path, dataset)
    rejects = {"counts": {}, "files": []}
    values |= {"holdout": None, "rejects": rejects, "totals": {**values["totals"], "rows": 9, "rejects": 0}}
    values["sources"] = [{"path": "a", "size": 1, "rows": 9}, {"path": "b", "size": 1}]
    assert findings(tmp_path, values, deep=True) == []


def test_a_data_set_without_packs_is_sound(tmp_path: Path) -> None:
    values = write_dataset(tmp_path, make_dataset())
    values |= {"shards": [], "holdout": None, "channels": {"total": {}, "sources": {}}}
    values["totals"] |= {"rows": 2, "packs": 0, "documents": 0, "tokens": 0}
    values["sources"] = [{"path": "a", "size": 1, "rows": 2}]
    assert findings(tmp_path, values, deep=True) == []


def test_without_a_manifest_there_is_nothing_to_go_by(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        list(verify(str(tmp_path), deep=False))


Damage: TypeAlias = Callable[[Path, dict[str, Any]], None]


def flip(name: str, find: Callable[[Packs], tuple[bytes, int]]) -> Damage:
    """Flip one bit of a file; `find` gives a stretch of bytes to look for, and the place in it."""

    def damage(folder: Path, values: dict[str, Any]) -> None:
        path = folder / name
        data = bytearray(path.read_bytes())
        stretch, place = find(make_dataset().packs[name])
        assert data.count(stretch) == 1
        data[data.index(stretch) + place] ^= 1
        path.write_bytes(data)

    return damage


def remove(name: str) -> Damage:
    return lambda folder, values: (folder / name).unlink()


def overwrite(name: str, data: bytes) -> Damage:
    def damage(folder: Path, values: dict[str, Any]) -> None:
        (folder / name).write_bytes(data)

    return damage


def cut_short(name: str) -> Damage:
    def damage(folder: Path, values: dict[str, Any]) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1])

    return damage


def set_value(path: str, value: Any) -> Damage:
    def damage(folder: Path, values: dict[str, Any]) -> None:
        node: Any = values
        *parents, last = path.split("/")
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[last] = value

    return damage


def cut_short_and_measured_again(folder: Path, values: dict[str, Any]) -> None:
    data = (folder / FIRST_SHARD).read_bytes()[:-20]
    values["shards"][0] |= write_file(folder, FIRST_SHARD, data)


def swap_shards(folder: Path, values: dict[str, Any]) -> None:
    for file in (values["shards"][0], values["holdout"]["shards"][0]):
        file["name"] = {FIRST_SHARD: HOLDOUT, HOLDOUT: FIRST_SHARD}[file["name"]]


BOTH, DEEP = True, False

FILE_DAMAGE: dict[str, tuple[Damage, str, bool]] = {
    "shard missing": (remove(FIRST_SHARD), f"{FIRST_SHARD}: missing", BOTH),
    "second shard missing": (remove(SECOND_SHARD), f"{SECOND_SHARD}: missing", BOTH),
    "holdout shard missing": (remove(HOLDOUT), f"{HOLDOUT}: missing", BOTH),
    "reject file missing": (remove(REJECTS), f"{REJECTS}: missing", BOTH),
    "shard cut short": (cut_short(FIRST_SHARD), f"{FIRST_SHARD}: ", BOTH),
    "holdout shard cut short": (cut_short(HOLDOUT), f"{HOLDOUT}: ", BOTH),
    "reject file cut short": (cut_short(REJECTS), f"{REJECTS}: 10 bytes", BOTH),
    "shard cut short and measured again": (cut_short_and_measured_again, "not a readable shard", BOTH),
    "shards swapped": (swap_shards, f"{FIRST_SHARD}: ", BOTH),
    "bit in ids": (flip(FIRST_SHARD, lambda packs: (packs.input_ids.tobytes(), 8)), "its sha256 is", DEEP),
    "bit in channel": (flip(FIRST_SHARD, lambda packs: (packs.channel.tobytes(), 3)), "its sha256 is", DEEP),
    "bit in padding": (
        flip(FIRST_SHARD, lambda packs: (packs.input_ids.tobytes(), 4 * 15)),
        "padding is not the pad id",
        DEEP,
    ),
    "bit in the holdout": (flip(HOLDOUT, lambda packs: (packs.channel.tobytes(), 2)), f"{HOLDOUT}: its sha256", DEEP),
    "bit in rejects": (
        overwrite(REJECTS, b"two rejectS"),
        f"{REJECTS}: its sha256",
        DEEP,
    ),
    "sha256 off": (set_value("shards/0/sha256", "0" * 64), f"{FIRST_SHARD}: its sha256", DEEP),
    "bytes off": (set_value("shards/0/bytes", 1), "the manifest says 1", BOTH),
    "packs of a shard off": (set_value("shards/0/packs", 4), "packs is 3, the manifest says 4", BOTH),
    "documents of a shard off": (set_value("shards/0/documents", 5), "6 documents and 43 tokens", DEEP),
    "tokens of a shard off": (set_value("shards/0/tokens", 42), "6 documents and 43 tokens", DEEP),
    "seq_len off": (set_value("seq_len", 32), "seq_len is 16, the manifest says 32", BOTH),
    "recipe off": (set_value("recipe_id", "d" * 64), "recipe_id is", BOTH),
    "pad id off": (set_value("pad_id", 48), "pad_id is 49, the manifest says 48", BOTH),
    "tokenizer off": (set_value("tokenizer/sha256", "d" * 64), "tokenizer_sha256 is", BOTH),
    "total packs off": (set_value("totals/packs", 6), "totals.packs is 6, its parts add up to 5", BOTH),
    "total documents off": (set_value("totals/documents", 8), "totals.documents is 8", BOTH),
    "total tokens off": (set_value("totals/tokens", 1), "totals.tokens is 1", BOTH),
    "total rejects off": (set_value("totals/rejects", 3), "totals.rejects is 3", BOTH),
    "total rows off": (set_value("totals/rows", 14), "totals.rows is 14", BOTH),
    "turns of a source off": (set_value("turns/sources/0/cut", 1), "turns.total is not the sum", BOTH),
    "rows of a source off": (set_value("sources/0/rows", 8), "totals.rows is 13", BOTH),
    "rows of a reject file off": (set_value("rejects/files/0/rows", 1), "the reject files hold 1", BOTH),
    "reject counts off": (set_value("rejects/counts", {"empty": 1}), "totals.rejects is 2", BOTH),
    "histogram off": (set_value("channels/total", {"0": 60}), "channels.total is not", DEEP),
    "histogram of a source off": (set_value("channels/sources/0", {"0": 1}), "channels.sources[0]", DEEP),
    "histogram of a source too many": (set_value("channels/sources/7", {"0": 1}), "channels.sources[7]", DEEP),
    "histogram of the holdout off": (set_value("holdout/channels", {"0": 11}), "holdout.channels", DEEP),
    "vocabulary too small": (set_value("vocab_size", 16), "a token id is not in [0, 16)", DEEP),
}


@pytest.mark.parametrize("name", FILE_DAMAGE)
def test_damage_after_the_build_is_found(tmp_path: Path, name: str) -> None:
    damage, message, shallow = FILE_DAMAGE[name]
    values = write_dataset(tmp_path, make_dataset())
    damage(tmp_path, values)
    assert any(message in finding for finding in findings(tmp_path, values, deep=True))
    assert any(message in finding for finding in findings(tmp_path, values, deep=False)) == shallow


Change: TypeAlias = tuple[str, str, Any, Any]

UNLAWFUL: dict[str, tuple[Change, str]] = {
    "id too large": ((FIRST_SHARD, "input_ids", (0, 1), 50), "a token id is not in [0, 50)"),
    "id negative": ((FIRST_SHARD, "input_ids", (2, 0), -1), "a token id is not in [0, 50)"),
    "id in the holdout too large": ((HOLDOUT, "input_ids", (0, 0), 2**31 - 1), "a token id is not in"),
    "padding": ((FIRST_SHARD, "input_ids", (0, 13), 5), "padding is not the pad id"),
    "last padding": ((SECOND_SHARD, "input_ids", (1, 15), 0), "padding is not the pad id"),
    "channel in the padding": ((FIRST_SHARD, "channel", (0, 15), BODY), "padding has a channel"),
    "first token trainable": ((FIRST_SHARD, "channel", (0, 0), USER), "first token may be trained"),
    "a later first token trainable": ((FIRST_SHARD, "channel", (2, 5), BODY), "first token may be trained"),
    "document of no length": ((SECOND_SHARD, "doc_lengths", 1, 0), "a document has no token"),
    "document of negative length": ((SECOND_SHARD, "doc_lengths", 2, -3), "a document has no token"),
    "lengths beyond seq_len": ((FIRST_SHARD, "doc_lengths", 2, 17), "longer than seq_len"),
    "lengths beyond seq_len together": ((FIRST_SHARD, "doc_lengths", 0, 12), "longer than seq_len"),
    "lengths too short": ((FIRST_SHARD, "doc_lengths", 0, 5), "padding is not the pad id"),
    "source unknown": ((FIRST_SHARD, "doc_source", 0, 2), "source is not in the manifest"),
    "source negative": ((FIRST_SHARD, "doc_source", 0, -1), "source is not in the manifest"),
    "position negative": ((FIRST_SHARD, "doc_position", 0, -1), "position or piece is negative"),
    "piece negative": ((FIRST_SHARD, "doc_piece", 0, -1), "position or piece is negative"),
    "document twice": ((FIRST_SHARD, "doc_position", 2, 0), "a document is there twice"),
    "row without a first piece": ((FIRST_SHARD, "doc_piece", 2, 1), "11 rows should have documents, 10 have"),
    "weight negative": ((FIRST_SHARD, "weight", (0, 3), -0.5), "a weight is negative or not finite"),
    "weight not a number": ((SECOND_SHARD, "weight", (0, 3), np.nan), "a weight is negative or not finite"),
    "weight infinite": ((HOLDOUT, "weight", (0, 3), np.inf), "a weight is negative or not finite"),
}


@pytest.mark.parametrize("name", UNLAWFUL)
def test_a_shard_that_breaks_a_law_is_found_though_its_hash_is_right(tmp_path: Path, name: str) -> None:
    change, message = UNLAWFUL[name]
    dataset = make_dataset(weights=True)
    dataset.change(*change)
    values = write_dataset(tmp_path, dataset)
    values["channels"]["sources"].pop("-1", None)  # no manifest may say that
    found = findings(tmp_path, values, deep=True)
    assert any(message in finding for finding in found), found
    assert not any("its sha256" in finding for finding in found)


@pytest.mark.parametrize("byte", [6, 7, 0b00_110_011, 0b01_001_010, 255])
def test_an_illegal_channel_byte_is_found(tmp_path: Path, byte: int) -> None:
    dataset = make_dataset()
    values = write_dataset(tmp_path, dataset)
    dataset.change(SECOND_SHARD, "channel", (0, 3), byte)
    values["shards"][1] |= write_packs(tmp_path, SECOND_SHARD, dataset.packs[SECOND_SHARD], META)
    found = findings(tmp_path, values, deep=True)
    assert f"{SECOND_SHARD}: a channel byte is not legal" in found


# Each document is in exactly one pack of the whole data set, not only of its record batch.
def test_a_document_in_two_shards_is_found(tmp_path: Path) -> None:
    dataset = make_dataset()
    dataset.change(SECOND_SHARD, "doc_position", 0, 0)
    dataset.change(SECOND_SHARD, "doc_source", 0, 0)
    found = findings(tmp_path, write_dataset(tmp_path, dataset), deep=True)
    assert any("twice" in finding for finding in found)


def test_a_document_in_training_and_holdout_is_found(tmp_path: Path) -> None:
    dataset = make_dataset()
    dataset.change(HOLDOUT, "doc_position", 0, 100)
    found = findings(tmp_path, write_dataset(tmp_path, dataset), deep=True)
    assert any("twice" in finding for finding in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe_id": "d" * 64}, "recipe_id is dddd"),
        ({"pad_id": 3}, "pad_id is 3, the manifest says 49"),
        ({"tokenizer_sha256": "d" * 64}, "tokenizer_sha256 is dddd"),
    ],
)
def test_a_footer_of_another_build_is_found_without_reading_tokens(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    dataset = make_dataset()
    dataset.metas[SECOND_SHARD] = replace(META, **change)
    values = write_dataset(tmp_path, dataset)
    assert any(f"{SECOND_SHARD}: {message}" in finding for finding in findings(tmp_path, values, deep=False))


FLIP_BYTES = """
import sys
from pathlib import Path
from pipeline.verify import verify

folder, name = Path(sys.argv[1]), sys.argv[2]
whole = (folder / name).read_bytes()
assert not list(verify(str(folder), deep=True))
for place in range(0, len(whole), 5):
    flipped = bytearray(whole)
    flipped[place] ^= 255
    (folder / name).write_bytes(flipped)
    assert list(verify(str(folder), deep=True)), place
print(len(whole))
"""


def test_any_flipped_byte_is_a_finding_and_never_an_error(tmp_path: Path) -> None:
    """In a process of its own: Arrow aborts on offsets that point beyond a column."""
    values = write_dataset(tmp_path, make_dataset())
    assert findings(tmp_path, values, deep=True) == []
    command = [sys.executable, "-c", FLIP_BYTES, str(tmp_path), SECOND_SHARD]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr[-500:]
    assert int(result.stdout) > 1000
