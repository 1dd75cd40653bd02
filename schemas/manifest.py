"""The manifest: what a data set is made of. Written last; readers trust it and never list a folder."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from schemas.channels import LEGAL
from schemas.errors import DatasetError
from schemas.rejects import Reason
from schemas.store import Folder, check_name

MANIFEST = "manifest.json"

FileName = Annotated[str, AfterValidator(check_name)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
SourceIndex = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,17})$")]


def _check_byte(key: str) -> str:
    if key not in _BYTES:
        raise ValueError(f"{key[:40]!r} is no legal channel byte")
    return key


_BYTES = {str(byte) for byte in range(256) if LEGAL[byte]}


Histogram = dict[Annotated[str, AfterValidator(_check_byte)], Count]
"""Tokens by channel byte; the byte is a decimal string, absent where the count is 0."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardFile(Record):
    """One shard. `tokens` counts the documents' tokens, not the padding."""

    name: FileName
    bytes: Count
    sha256: Sha256
    packs: Count
    documents: Count
    tokens: Count


class RejectFile(Record):
    name: FileName
    bytes: Count
    sha256: Sha256
    rows: Count


class Source(Record):
    """One input file as the plan saw it: its path as configured, its entry in the config's `sources`, and what tells
    a changed file."""

    path: str
    setting: Count = 0
    size: Count
    etag: str | None = None
    mtime: str | None = None
    rows: Count = 0


class TokenizerFacts(Record):
    """`sha256` covers the files that decide the ids; `engine` is the library that made them."""

    kind: Literal["huggingface", "tiktoken", "sentencepiece"]
    sha256: Sha256
    engine: str
    libraries: dict[str, str]


class TemplateFacts(Record):
    sha256: Sha256
    origin: str


class Rejects(Record):
    counts: dict[Reason, Count]
    files: list[RejectFile]


class Channels(Record):
    """Histograms of the channel byte over all shards, holdout apart; `sources` by index as a string."""

    total: Histogram
    sources: dict[SourceIndex, Histogram]


class TurnCounts(Record):
    """Assistant turns, the holdout's included. `trained` are whole and have a token that the build's loss policy
    trains; `terminated`, `reasoning_dropped` and `not_served` are among these. `cut` are apart: their documents end
    before they do."""

    trained: Count = 0
    terminated: Count = 0
    reasoning_dropped: Count = 0
    not_served: Count = 0
    cut: Count = 0


class Turns(Record):
    """`sources` by index as a string; those without turns are absent."""

    total: TurnCounts
    sources: dict[SourceIndex, TurnCounts]


class Totals(Record):
    """`rows` = rows that gave documents + `rejects`. Packs, documents and tokens are without the holdout, all else is
    with it."""

    rows: Count
    rejects: Count
    packs: Count
    documents: Count
    tokens: Count
    truncated: Count
    straddling: Count


class Holdout(Record):
    """Shards that are no part of the training data: a share of the rows, chosen by a hash of their place."""

    share: Share
    shards: list[ShardFile]
    channels: Histogram


class Difference(Record):
    """The first place where a document and its oracle part: token `index` (character, where only text was compared),
    and the ids from there on."""

    source: Count
    position: Count
    index: Count
    expected: list[TokenId]
    found: list[TokenId]


class Certificate(Record):
    """A sample of the rows, rendered and tokenized by another stack and compared. `with_control_text` and `passed` are
    part of `compared`."""

    oracle: Literal["transformers"]
    level: Literal["ids", "text"]
    versions: dict[str, str]
    compared: Count = 0
    passed: Count = 0
    with_control_text: Count = 0
    not_comparable: Count = 0
    first_difference: Difference | None = None

    @property
    def differences(self) -> int:
        return self.compared - self.passed

    @property
    def shown_versions(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())

    def is_of(self, other: "Certificate") -> bool:
        """Whether both come from the same oracle."""
        return (self.oracle, self.level, self.versions) == (other.oracle, other.level, other.versions)


class Parent(Record):
    """The manifest of the generation before, by its file and the file's hash."""

    name: FileName
    sha256: Sha256


class Manifest(Record):
    """A generation after the first lists its own sources, shards and rejects alone; indexes of sources go on from those
    of its parents, and what it is together with them says schemas.generations."""

    format: Literal["1"] = "1"
    id: Sha256
    recipe_id: Sha256
    seq_len: Annotated[int, Field(gt=0, lt=2**31)]
    vocab_size: Annotated[int, Field(gt=0, le=2**31)]
    bos_id: TokenId | None
    eos_id: TokenId | None
    pad_id: TokenId
    end_ids: list[TokenId]
    tokenizer: TokenizerFacts
    chat_template: TemplateFacts | None
    clock: str
    config: dict[str, Any]
    sources: list[Source]
    shards: list[ShardFile]
    holdout: Holdout | None
    rejects: Rejects
    channels: Channels
    turns: Turns
    totals: Totals
    fill: Share
    certificate: Certificate | None
    generation: Count
    parent: Parent | None

    def encode(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()


def first_problem(error: ValidationError) -> str:
    """The place of the first thing that is wrong, and what it is."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"])
    return f"{place}: {first['msg'][:200]}"


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Raises DatasetError for another format and for anything that is no manifest."""
    try:
        with _uncollected():
            return Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        seen = error.errors(include_url=False)[0]["input"]
        raise DatasetError(
            f"{where}: not a manifest of format 1: {first_problem(error)} (got {str(seen)[:80]!r}); "
            "rebuild the data set, or use the version of packline that wrote it"
        ) from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """Records by the hundred thousand, and none is a cycle: looking through them for garbage takes as long as reading
    them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def manifest_name(generation: int) -> str:
    """manifest.json for the first, number 0, then manifest-0001.json and so on."""
    return f"manifest-{generation:04}.json" if generation else MANIFEST


def named_files(manifest: Manifest) -> list[ShardFile | RejectFile]:
    """Every file that the manifest names, the holdout's and the rejects' with them."""
    held_out = manifest.holdout.shards if manifest.holdout else []
    return [*manifest.shards, *held_out, *manifest.rejects.files]


def load_manifest(folder: Folder, generation: int = 0) -> Manifest:
    """One file. Raises DatasetError where there is none: the build has not finished, or the path is another."""
    where = f"{folder.shown}/{manifest_name(generation)}"
    try:
        data = folder.read(manifest_name(generation))
    except FileNotFoundError as error:
        raise DatasetError(f"{where} does not exist: no data set here, or its build has not finished") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise DatasetError(f"{where} cannot be read: {error}; give the folder of a data set") from error
    return decode_manifest(data, where)


def add_turns(counts: Iterable[TurnCounts]) -> TurnCounts:
    total: dict[str, int] = dict.fromkeys(TurnCounts.model_fields, 0)
    for count in counts:
        for name in total:
            total[name] += getattr(count, name)
    return TurnCounts(**total)


def add_certificates(parts: Sequence[Certificate]) -> Certificate:
    """The sum of parts of one oracle; the first difference is that of the first part that has one."""
    assert all(part.is_of(parts[0]) for part in parts)
    names = ("compared", "passed", "with_control_text", "not_comparable")
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    first = next((part.first_difference for part in parts if part.first_difference), None)
    return parts[0].model_copy(update={**sums, "first_difference": first})


def add_histograms(histograms: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum, keys in the order of their numbers."""
    total: dict[str, int] = {}
    for histogram in histograms:
        for byte, count in histogram.items():
            total[byte] = total.get(byte, 0) + count
    return {byte: total[byte] for byte in sorted(total, key=int)}
