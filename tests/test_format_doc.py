"""docs/format.md and docs/config.md say what the code does: their examples run, their tables are complete."""

import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config import (
    Alpaca,
    BuildConfig,
    Columns,
    ControlTokens,
    Custom,
    OpenAI,
    PromptTemplate,
    ShareGPT,
    Source,
    SpecialToken,
    Text,
    Tokenizer,
    Watch,
)
from pipeline.convert.sharegpt import SHAREGPT_ROLES
from pipeline.holdout import is_held_out
from pipeline.pack import order_packs
from pipeline.verify import verify
from schemas import manifest as crossing
from schemas.channels import LEGAL, NO_LOSS, Part, Role, pack_channel, unpack_channel
from schemas.manifest import MANIFEST, Channels, Manifest, Rejects, ShardFile, TokenizerFacts, Totals, TurnCounts, Turns
from schemas.policy import PRESETS, LossPolicy, Term
from schemas.recipe import RECIPE_FIELDS, RECIPE_SOURCE_FIELDS, dataset_id
from schemas.rejects import Reason
from schemas.shard import PACKS_PER_BATCH, Packs, ShardMeta, shard_schema, write_shard
from train.architecture import PRESETS as MODEL_PRESETS
from train.architecture import Architecture, LinearScaling, Llama3Scaling, YarnScaling
from train.config import (
    CacheConfig,
    CheckpointConfig,
    DatasetConfig,
    ModelFolder,
    ProfileConfig,
    TrainConfig,
    ValidationConfig,
)

DOCS = Path(__file__).parents[1] / "docs"
FORMAT = (DOCS / "format.md").read_text("utf-8")
CONFIG = (DOCS / "config.md").read_text("utf-8")

SEQ_LEN, VOCAB_SIZE, PAD_ID = 8, 50, 3


class Doc(NamedTuple):
    ids: list[int]
    channel: list[int]


class Seen(NamedTuple):
    """A pack as a reader sees it: without padding, borders from 0."""

    ids: list[int]
    mask: list[bool]
    cu_seqlens: list[int]


PackList: TypeAlias = list[list[Doc]]


# Reading the pages


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(text: str, heading: str) -> str:
    """What stands between a heading and the next one of any level, code apart."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", prose, re.DOTALL | re.MULTILINE)
    assert found, f"no heading {heading!r}"
    return found[1]


def table_rows(text: str) -> dict[str, list[str]]:
    """{first cell without its back-ticks: the other cells} of all tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def keys_of(text: str, heading: str) -> dict[str, list[str]]:
    rows = table_rows(section(text, heading))
    return {key: cells for key, cells in rows.items() if key != "key"}


# A small data set, made by hand


def make_packs(rng: np.random.Generator, count: int) -> PackList:
    """Packs of random documents with random legal channels; the first token of each has bit 7."""
    legal = np.flatnonzero(LEGAL)
    packs: PackList = []
    for _ in range(count):
        room = SEQ_LEN
        pack: list[Doc] = []
        while room and (not pack or rng.random() < 0.7):
            length = int(rng.integers(1, room + 1))
            channel = rng.choice(legal, length)
            channel[0] |= NO_LOSS
            pack.append(Doc(rng.integers(0, VOCAB_SIZE, length).tolist(), channel.tolist()))
            room -= length
        packs.append(pack)
    return packs


def as_arrays(packs: PackList, first_position: int, *, weights: bool) -> Packs:
    docs = [doc for pack in packs for doc in pack]
    input_ids = np.full((len(packs), SEQ_LEN), PAD_ID, np.int32)
    channel = np.zeros((len(packs), SEQ_LEN), np.uint8)
    weight = np.zeros((len(packs), SEQ_LEN), np.float32)
    for row, pack in enumerate(packs):
        tokens = sum(len(doc.ids) for doc in pack)
        input_ids[row, :tokens] = [token for doc in pack for token in doc.ids]
        channel[row, :tokens] = [byte for doc in pack for byte in doc.channel]
        weight[row, :tokens] = 1
    zeros = np.zeros(len(docs), np.int32)
    return Packs(
        input_ids=input_ids,
        channel=channel,
        doc_offsets=np.cumsum([0, *map(len, packs)]).astype(np.int32),
        doc_lengths=np.array([len(doc.ids) for doc in docs], np.int32),
        doc_source=zeros,
        doc_position=np.arange(len(docs), dtype=np.int64) + first_position,
        doc_piece=zeros,
        weight=weight if weights else None,
    )


def add_shard(folder: Path, name: str, packs: PackList, *, weights: bool) -> ShardFile:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as sink:
        arrays = as_arrays(packs, zlib.crc32(name.encode()), weights=weights)  # no document is in two shards
        write_shard(arrays, ShardMeta(SEQ_LEN, "b" * 64, PAD_ID, "c" * 64), sink)
    data = path.read_bytes()
    docs = [doc for pack in packs for doc in pack]
    return ShardFile(
        name=name,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        packs=len(packs),
        documents=len(docs),
        tokens=sum(len(doc.ids) for doc in docs),
    )


def make_manifest(shards: Sequence[ShardFile], packs: PackList) -> Manifest:
    docs = [doc for pack in packs for doc in pack]
    histogram = dict(Counter(str(byte) for doc in docs for byte in doc.channel))
    tokens = sum(shard.tokens for shard in shards)
    totals = {"rows": len(docs), "rejects": 0, "truncated": 0, "straddling": 0}
    return Manifest(
        id="a" * 64,
        recipe_id="b" * 64,
        seq_len=SEQ_LEN,
        vocab_size=VOCAB_SIZE,
        bos_id=None,
        eos_id=None,
        pad_id=PAD_ID,
        end_ids=[],
        tokenizer=TokenizerFacts(kind="huggingface", sha256="c" * 64, engine="none", libraries={}),
        chat_template=None,
        clock="2024-07-26",
        config={},
        sources=[crossing.Source(path="data/\u00fc.jsonl", size=1, rows=len(docs))],
        shards=list(shards),
        holdout=None,
        rejects=Rejects(counts={}, files=[]),
        channels=Channels(total=histogram, sources={"0": histogram}),
        turns=Turns(total=TurnCounts(), sources={}),
        totals=Totals(packs=len(packs), documents=len(docs), tokens=tokens, **totals),
        fill=round(tokens / (len(packs) * SEQ_LEN), 6),
        certificate=None,
        generation=0,
        parent=None,
    )


@pytest.fixture(scope="module")
def packs() -> PackList:
    """Enough for a second record batch in the first shard."""
    return make_packs(np.random.default_rng(0), PACKS_PER_BATCH + 40)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "weights"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, packs: PackList) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    cut = PACKS_PER_BATCH + 5
    shards = [
        add_shard(folder, f"shards/{number}.arrow", part, weights=request.param)
        for number, part in enumerate((packs[:cut], packs[cut:]))
    ]
    (folder / MANIFEST).write_bytes(make_manifest(shards, packs).encode())
    return folder


# The example reader


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The names that the Python blocks of format.md define."""
    names: dict[str, Any] = {}
    for block in code_blocks(FORMAT, "python"):
        exec(compile(block, "format.md", "exec"), names)
    return names


def is_trained(byte: int, policy: LossPolicy) -> bool:
    role, part, last_turn, no_loss = unpack_channel(byte)
    return not no_loss and any(
        role.name.lower() in (term.roles or (role.name.lower(),))
        and part.name.lower() in (term.parts or (part.name.lower(),))
        and (last_turn or term.turns == "all")
        for term in policy.terms
    )


def read_slowly(folder: Path, policy: LossPolicy) -> Iterator[Seen]:
    """Token by token, through Python objects."""
    for file in json.loads((folder / MANIFEST).read_text("utf-8"))["shards"]:
        with pa.OSFile(str(folder / file["name"])) as source:
            rows = pa.ipc.open_file(source).read_all().to_pylist()
        for row in rows:
            borders = [0]
            for length in row["doc_lengths"]:
                borders.append(borders[-1] + length)
            mask = [is_trained(byte, policy) for byte in row["channel"][: borders[-1]]]
            yield Seen(row["input_ids"][: borders[-1]], mask, borders)


def from_documents(packs: PackList, policy: LossPolicy) -> Iterator[Seen]:
    for pack in packs:
        borders = [sum(len(doc.ids) for doc in pack[:number]) for number in range(len(pack) + 1)]
        mask = [is_trained(byte, policy) for doc in pack for byte in doc.channel]
        yield Seen([token for doc in pack for token in doc.ids], mask, borders)


def as_lists(found: Iterator[tuple[npt.NDArray[Any], ...]]) -> list[Seen]:
    return [Seen(*(array.tolist() for array in arrays)) for arrays in found]


def test_the_example_reads_what_was_written(dataset: Path, packs: PackList, example: dict[str, Any]) -> None:
    found = as_lists(example["read_packs"](dataset))
    assert found == list(read_slowly(dataset, PRESETS["assistant"]))
    assert found == list(from_documents(packs, PRESETS["assistant"]))
    assert any(any(seen.mask) for seen in found)


def test_the_data_set_keeps_the_laws_of_the_format(dataset: Path) -> None:
    assert list(verify(str(dataset), deep=True)) == []


@pytest.mark.parametrize("name", PRESETS)
def test_the_example_with_every_policy(name: str, packs: PackList, tmp_path: Path, example: dict[str, Any]) -> None:
    """Padding is never trained, not even by `all`; the trained tokens are those of the histogram."""
    shard = add_shard(tmp_path, "shards/0.arrow", packs[:50], weights=False)
    manifest = make_manifest([shard], packs[:50])
    (tmp_path / MANIFEST).write_bytes(manifest.encode())
    policy = PRESETS[name]
    found = as_lists(example["read_packs"](tmp_path, policy.table()))
    assert found == list(read_slowly(tmp_path, policy))
    histogram = {int(byte): count for byte, count in manifest.channels.total.items()}
    assert sum(sum(seen.mask) for seen in found) == policy.trained_tokens(histogram)


def test_the_table_of_the_example_is_the_default_policy(example: dict[str, Any]) -> None:
    assert example["ASSISTANT"].tolist() == PRESETS["assistant"].table().tolist()


def test_the_shift_of_the_example(dataset: Path, example: dict[str, Any]) -> None:
    everything = np.ones(256, dtype=bool)  # trains even first tokens, so that a border that leaks would show
    for ids, mask, cu_seqlens in example["read_packs"](dataset, everything):
        targets, counts = example["shift"](ids, mask, cu_seqlens)
        for start, stop in zip(cu_seqlens.tolist(), cu_seqlens.tolist()[1:], strict=False):
            assert targets[start : stop - 1].tolist() == ids[start + 1 : stop].tolist()
            assert counts[start:stop].tolist() == [True] * (stop - start - 1) + [False]


def _edit_manifest(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / MANIFEST).read_text("utf-8"))
        (folder / MANIFEST).write_text(json.dumps({**values, **changes}), "utf-8")

    return edit


def _point_outside(folder: Path) -> None:
    text = (folder / MANIFEST).read_text("utf-8")
    (folder / "outside.arrow").write_bytes((folder / "shards/0.arrow").read_bytes())
    (folder / MANIFEST).write_text(text.replace("shards/0.arrow", "shards/../outside.arrow"), "utf-8")


def _cut_shard(folder: Path) -> None:
    path = folder / "shards/0.arrow"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        _edit_manifest(format="2"),
        _edit_manifest(seq_len=SEQ_LEN + 1),
        _edit_manifest(recipe_id="d" * 64),
        _edit_manifest(pad_id=PAD_ID + 1),
        _point_outside,
        _cut_shard,
    ],
    ids=["format", "seq_len", "recipe_id", "pad_id", "name", "size"],
)
def test_the_example_refuses(
    damage: Callable[[Path], None], packs: PackList, tmp_path: Path, example: dict[str, Any]
) -> None:
    shard = add_shard(tmp_path, "shards/0.arrow", packs[:3], weights=False)
    (tmp_path / MANIFEST).write_bytes(make_manifest([shard], packs[:3]).encode())
    assert len(list(example["read_packs"](tmp_path))) == 3
    damage(tmp_path)
    with pytest.raises(ValueError, match=r"format|not the file|another data set"):
        list(example["read_packs"](tmp_path))


# Worked examples


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def keys(seed: int, unit: int, block: int, packs: int) -> list[int]:
    start = mix(mix(mix(seed % 2**64) ^ unit) ^ block)
    return [mix(start ^ pack) for pack in range(packs)]


def test_the_example_of_the_order_of_packs() -> None:
    text = section(FORMAT, "Order of packs in a block")
    given = re.search(r"seed (\d+), unit (\d+), block (\d+), and (\d+) packs", text)
    assert given
    seed, unit, block, count = map(int, given.groups())
    steps = [mix(seed), mix(mix(seed) ^ unit), mix(mix(mix(seed) ^ unit) ^ block)]
    shown = re.findall(r"`0x([0-9a-f]{16})`", text)
    assert [int(value, 16) for value in shown] == [mix(0), *steps, *keys(seed, unit, block, count)]
    order = re.search(r"in the order: `(\[.*\])`", text)
    assert order
    assert json.loads(order[1]) == order_packs(seed, unit, block, count).tolist()


@pytest.mark.parametrize("place", [(7, 12, 3), (0, 0, 0), (-1, 100_000, 999), (2**63, 1, 0)])
def test_the_rule_of_the_order_is_the_code(place: tuple[int, int, int]) -> None:
    expected = keys(*place, 200)
    assert order_packs(*place, 200).tolist() == sorted(range(200), key=expected.__getitem__)


def test_the_example_of_the_holdout() -> None:
    text = section(FORMAT, "Holdout")
    lines = re.findall(r"^\| `(\S+)` \| (\d+) \| `(\w{16})` \| ([\d.]+) \| (yes|no) \|$", text, re.MULTILINE)
    assert {answer for *_, answer in lines} == {"yes", "no"}
    for path, position, start, share, answer in lines:
        assert hashlib.sha256(f"{path}\0{position}".encode()).hexdigest()[:16] == start
        assert f"{int(start, 16) / 2**64:.4f}" == share
        assert is_held_out(path, int(position), 0.25) == (answer == "yes")


def test_the_example_of_the_identity() -> None:
    canonical, identity = next(block for block in code_blocks(FORMAT, "text") if "recipe_id" in block).splitlines()
    assert hashlib.sha256(canonical.encode()).hexdigest() == identity
    value = json.loads(canonical)
    assert dataset_id(value["recipe_id"], value["sources"]) == identity


def test_the_recipe_names_its_fields() -> None:
    text = section(FORMAT, "Identity")
    assert not [field for field in (*RECIPE_FIELDS, *RECIPE_SOURCE_FIELDS) if f"`{field}`" not in text]


def test_the_example_of_the_channel_byte() -> None:
    text = section(FORMAT, "The channel byte")
    assert f"Example: {pack_channel(Role.ASSISTANT, Part.BODY, last_turn=True)} = 0x4B" in text
    rows = table_rows(text)
    for bits, kind in (("0-2", Role), ("3-5", Part)):
        assert rows[bits][1] == ", ".join(f"{value.value} {value.name.lower()}" for value in kind)


# Tables


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a type, and those in their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for argument in get_args(annotation):
        yield from models_in(argument)


MANIFEST_SECTIONS: dict[str, tuple[type[BaseModel], ...]] = {
    "Top level": (Manifest,),
    "Objects of `shards` and `holdout.shards`": (ShardFile,),
    "Objects of `sources`": (crossing.Source,),
    "Object `tokenizer`": (TokenizerFacts,),
    "Object `chat_template`": (crossing.TemplateFacts,),
    "Object `rejects`": (Rejects, crossing.RejectFile),
    "Object `channels`": (Channels,),
    "Object `turns`": (Turns, TurnCounts),
    "Object `totals`": (Totals,),
    "Object `holdout`": (crossing.Holdout,),
    "Object `certificate`": (crossing.Certificate, crossing.Difference),
    "Object `parent`": (crossing.Parent,),
}

CONFIG_SECTIONS: dict[str, type[BaseModel]] = {
    "Build config": BuildConfig,
    "`watch`": Watch,
    "Prompt templates": PromptTemplate,
    "Entries of `sources`": Source,
    "`control_tokens`": ControlTokens,
    "`tokenizer`": Tokenizer,
    "Entries of `special_tokens`": SpecialToken,
    "Transform `openai`": OpenAI,
    "Transform `sharegpt`": ShareGPT,
    "Transform `columns`": Columns,
    "Transform `alpaca`": Alpaca,
    "Transform `text`": Text,
    "Transform `custom`": Custom,
    "Loss policy": LossPolicy,
    "Terms": Term,
    "Training config": TrainConfig,
    "Data sets": DatasetConfig,
    "Cache": CacheConfig,
    "Validation": ValidationConfig,
    "Checkpoints": CheckpointConfig,
    "Profile": ProfileConfig,
    "Model folder": ModelFolder,
    "Dimensions": Architecture,
    "Rotary scaling `linear`": LinearScaling,
    "Rotary scaling `llama3`": Llama3Scaling,
    "Rotary scaling `yarn`": YarnScaling,
}


def test_every_model_has_a_section() -> None:
    assert {model for models in MANIFEST_SECTIONS.values() for model in models} == set(models_in(Manifest))
    assert set(CONFIG_SECTIONS.values()) == {*models_in(BuildConfig), *models_in(TrainConfig)}


@pytest.mark.parametrize("heading", MANIFEST_SECTIONS)
def test_every_field_of_the_manifest_is_described(heading: str) -> None:
    fields = {name for model in MANIFEST_SECTIONS[heading] for name in model.model_fields}
    assert set(keys_of(FORMAT, heading)) == fields


def _shown_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, LossPolicy):
        return next(f'`"{name}"`' for name, policy in PRESETS.items() if policy == field.default)
    if field.default in (CacheConfig(), CheckpointConfig(), Watch()):
        return "`{}`"
    default = field.default.mode if isinstance(field.default, ControlTokens) else field.default
    return f"`{json.dumps(default)}`"


@pytest.mark.parametrize("heading", CONFIG_SECTIONS)
def test_every_key_of_a_config_is_described_with_its_default(heading: str) -> None:
    fields = CONFIG_SECTIONS[heading].model_fields
    rows = {key: cells for key, cells in keys_of(CONFIG, heading).items() if key in fields}
    assert list(rows) == list(fields)
    assert {key: cells[1] for key, cells in rows.items()} == {
        name: _shown_default(field) for name, field in fields.items()
    }


@pytest.mark.parametrize("heading", CONFIG_SECTIONS)
def test_no_key_is_described_that_is_none(heading: str) -> None:
    text = section(CONFIG, heading)
    described = re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:required|`[^|]*`) \|", text, re.MULTILINE)
    assert set(described) == set(CONFIG_SECTIONS[heading].model_fields)


@pytest.mark.parametrize("weights", [False, True])
def test_every_column_and_metadata_key_is_described(weights: bool) -> None:
    meta = ShardMeta(SEQ_LEN, "b" * 64, PAD_ID, "c" * 64)
    schema = shard_schema(meta, weights=weights)
    rows = table_rows(section(FORMAT, "Shard"))
    columns = [name for name in rows if name not in ("column", "key") and not name.startswith("packline.")]
    assert columns[: len(schema.names)] == schema.names
    assert set(columns) - set(schema.names) <= {"weight"}
    for field in schema:
        fixed = pa.types.is_fixed_size_list(field.type)
        value = {"float": "float32"}.get(str(field.type.value_type), str(field.type.value_type))
        expected = f"`fixed_size_list<{value}>[seq_len]`" if fixed else f"`list<{value}>`"
        assert rows[field.name][0] == expected
    assert [key for key in rows if key.startswith("packline.")] == list(meta.encode())
    assert f"exactly {PACKS_PER_BATCH} packs" in FORMAT


def test_every_preset_is_spelled_out() -> None:
    rows = keys_of(FORMAT, "Loss policies")
    rows.pop("preset")
    shown = {name: LossPolicy(terms=yaml.safe_load(cells[0].strip("`"))) for name, cells in rows.items()}
    assert shown == PRESETS


def test_every_reason_is_described() -> None:
    rows = table_rows(section(FORMAT, "Reject files"))
    rows.pop("reason")
    assert set(rows) == set(Reason)


def test_the_model_presets() -> None:
    rows = table_rows(section(CONFIG, "Dimensions"))
    names = [cell.strip("`") for cell in rows["preset"]]
    for preset, model in MODEL_PRESETS.items():
        assert {name: int(cell) for name, cell in zip(names, rows[preset], strict=True)} == model.model_dump(
            include=set(names)
        )


def test_the_names_of_sharegpt_roles() -> None:
    text = table_rows(section(CONFIG, "Roles"))["sharegpt"][0]
    assert set(re.findall(r"`(\w+)`", text)) == set(SHAREGPT_ROLES)


# Examples of configs, and the pages as such

_BUILD = {"output": "out", "seq_len": 8, "tokenizer": {"path": "t"}}
_SOURCES = [{"path": "rows.jsonl", "transform": {"type": "openai"}}]
_TRAIN = {"output": "out", "datasets": [{"path": "d"}], "model": "tiny", "packs_per_step": 1, "steps": 1}


@pytest.mark.parametrize("block", [block for block in code_blocks(CONFIG, "yaml") if yaml.safe_load(block)])
def test_every_example_of_a_config_is_one(block: str) -> None:
    values = yaml.safe_load(block)
    if "transform" in values:
        values = {"sources": [{"path": "rows.jsonl", **values}]}
    if values.keys() <= BuildConfig.model_fields.keys():
        BuildConfig.model_validate({**_BUILD, "sources": _SOURCES, **values})
    else:
        TrainConfig.model_validate({**_TRAIN, **values})


@pytest.mark.parametrize("text", [FORMAT, CONFIG], ids=["format", "config"])
def test_the_links_lead_somewhere(text: str) -> None:
    assert text.isascii()
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        page = DOCS / target if target else None
        assert page is None or page.exists(), target
        if anchor:
            content = text if page is None else page.read_text("utf-8")
            headings = re.findall(r"^#+ (.*)$", content, re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
