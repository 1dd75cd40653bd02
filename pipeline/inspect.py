"""`packline inspect`: what a data set holds, and any pack of it, decoded with the data set's own tokenizer."""

import posixpath
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from pipeline.config import Tokenizer
from pipeline.encoders.base import Encoder
from pipeline.encoders.load import SPECIAL_TOKENS, load_tokenizer
from pipeline.encoders.tokenizer_files import read_tokenizer_files
from pipeline.report import facts_table
from pipeline.show import colored, legend, shown_tokens
from schemas.channels import unpack_channel
from schemas.errors import DatasetError
from schemas.generations import Generation, load_dataset
from schemas.manifest import Manifest, ShardFile
from schemas.policy import DEFAULT_POLICY, LossPolicy
from schemas.shard import Packs, read_shard
from schemas.store import Folder, dataset_folder


def print_dataset(url: str, console: Console, profile: str | None = None, *, generation: Generation = "latest") -> None:
    manifest = load_dataset(dataset_folder(url, profile), generation)
    template = manifest.chat_template
    table = facts_table(manifest, _policy(manifest))
    table.add_row(
        "vocabulary", f"{manifest.vocab_size:,}; bos {manifest.bos_id}, eos {manifest.eos_id}, pad {manifest.pad_id}"
    )
    table.add_row(
        "tokenizer", f"{manifest.tokenizer.kind} ({manifest.tokenizer.sha256[:12]}), {manifest.tokenizer.engine}"
    )
    table.add_row("template", f"{template.origin} ({template.sha256[:12]})" if template else "none")
    table.add_row("data set", manifest.id)
    if manifest.generation:
        table.add_row("generation", f"{manifest.generation}; these are the counts of all up to it")
    table.add_row("recipe", manifest.recipe_id)
    console.print(table)
    console.print(_channel_table(manifest))
    console.print(_source_table(manifest))


def _policy(manifest: Manifest) -> LossPolicy:
    given = manifest.config.get("loss_policy")
    return LossPolicy.model_validate(given) if given else DEFAULT_POLICY


def _channel_table(manifest: Manifest) -> Table:
    trained = _policy(manifest).table()
    table = Table(
        "role", "part", "last turn", "no loss", "tokens", "trained", box=None, pad_edge=False, title="channels"
    )
    for key, count in manifest.channels.total.items():
        channel = unpack_channel(int(key))
        flags = ("yes" if channel.last_turn else "", "yes" if channel.no_loss else "")
        names = (channel.role.name.lower(), channel.part.name.lower())
        table.add_row(*names, *flags, f"{count:,}", "yes" if trained[int(key)] else "")
    return table


def _source_table(manifest: Manifest) -> Table:
    table = Table("source", "rows", "bytes", "tokens", box=None, pad_edge=False, title="sources")
    for index, source in enumerate(manifest.sources):
        tokens = sum(manifest.channels.sources.get(str(index), {}).values())
        table.add_row(source.path, f"{source.rows:,}", f"{source.size:,}", f"{tokens:,}")
    return table


def print_pack(
    url: str,
    number: int,
    console: Console,
    profile: str | None = None,
    *,
    holdout: bool = False,
    generation: Generation = "latest",
) -> None:
    """Packs are numbered through the shards in the manifest's order, those of the holdout apart.

    Raises DatasetError for a pack that is not there.
    """
    folder = dataset_folder(url, profile)
    manifest = load_dataset(folder, generation)
    whole = "the holdout" if holdout else "the data set"
    file, row = _locate(_shards(manifest, url, holdout), number, whole)
    shard = read_shard(pa.py_buffer(folder.read(file.name)), file.name)
    packs, row = shard.locate(row)
    encoder = _own_tokenizer(folder, manifest)
    filled = int(packs.doc_lengths[packs.documents(row)].sum())
    console.print(f"pack {number} of {whole}: {file.name}, {filled} of {manifest.seq_len} tokens", highlight=False)
    _print_documents(packs, row, manifest, encoder, console)
    console.print(Rule(style="bright_black"))
    console.print(legend())


def _print_documents(packs: Packs, row: int, manifest: Manifest, encoder: Encoder, console: Console) -> None:
    trained = _policy(manifest).table()
    span = packs.documents(row)
    at = 0
    for index in range(span.start, span.stop):
        end = at + int(packs.doc_lengths[index])
        ids, channels = packs.input_ids[row, at:end], packs.channel[row, at:end]
        source = manifest.sources[int(packs.doc_source[index])].path
        place = f"{source} at {packs.doc_position[index]}, piece {packs.doc_piece[index]}"
        console.print(Rule(f"tokens {at} to {end}: {place}", align="left", style="bright_black"))
        tokens = shown_tokens(ids.tolist(), channels.tolist(), trained[channels].tolist(), encoder)
        console.print(colored(tokens), soft_wrap=True)
        at = end


def _shards(manifest: Manifest, url: str, holdout: bool) -> list[ShardFile]:
    if not holdout:
        return manifest.shards
    if manifest.holdout is None:
        raise DatasetError(
            f"{url} has no holdout; build it with one (`holdout: 0.01`), or leave --holdout away for its training packs"
        )
    return manifest.holdout.shards


def _locate(shards: Sequence[ShardFile], number: int, whole: str) -> tuple[ShardFile, int]:
    row = number
    for shard in shards:
        if 0 <= row < shard.packs:
            return shard, row
        row -= shard.packs
    total = sum(shard.packs for shard in shards)
    has = f"packs 0 to {total - 1}" if total else "no packs"
    raise DatasetError(f"there is no pack {number}: {whole} has {has}")


def _own_tokenizer(folder: Folder, manifest: Manifest) -> Encoder:
    settings: dict[str, Any] = dict(manifest.config["tokenizer"])
    own = f"{folder.url}/tokenizer"
    if manifest.tokenizer.kind != "huggingface":
        own = posixpath.join(own, posixpath.basename(settings["path"]))
    if isinstance(settings.get("special_tokens"), str):
        settings["special_tokens"] = f"{folder.url}/tokenizer/{SPECIAL_TOKENS}"
    own_config = Tokenizer(**{**settings, "path": own})
    return load_tokenizer(own_config, read_tokenizer_files(own_config, folder.profile)).encoder
