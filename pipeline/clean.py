"""`packline clean`: what builds have left behind that belongs to no data set and to no build under way.

Looked at are shards/, holdout/, rejects/ and state/. A file stays if a manifest names it, if it is young, or if a build
whose state is young has it. Runs under way, and runs that begin while files are removed, lose nothing.
"""

import posixpath
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.block_info import BlockState, StateStore
from pipeline.exclusive import PROBE
from pipeline.file_sizes import REQUESTS
from pipeline.in_use import read_mark
from pipeline.uploads import Upload, abort_upload, unfinished_uploads
from schemas.errors import DatasetError
from schemas.generations import load_chain
from schemas.manifest import MANIFEST, Manifest, manifest_name, named_files
from schemas.store import Folder, StoredFile

DATA_FOLDERS = ("shards", "holdout", "rejects")
STATE = "state"

BATCH = 200
"""So many files are removed before it is looked again whether a build has begun: about a second's work."""

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp")
_MANIFEST_FILE = re.compile(r"manifest(-\d{4,})?\.json")
_BLOCK_FILE = re.compile(r"(?:g\d+-)?(?P<block>\d+-\d+)-[0-9a-f]{8}\.")


@dataclass(frozen=True)
class Orphans:
    """Files of one folder that may go, and why."""

    folder: str
    reason: str
    files: Sequence[StoredFile]


@dataclass(frozen=True)
class Cleaning:
    """What a folder holds that may go. `kept` counts the files that stay, by the reason. `mark` is that of the latest
    run when the folder was listed, `generations` how many manifests there were; what is younger than `oldest` stays."""

    orphans: Sequence[Orphans]
    uploads: Sequence[Upload]
    kept: Mapping[str, int]
    oldest: datetime
    mark: bytes | None
    generations: int


def find_orphans(output: Folder, age: timedelta, now: datetime) -> Cleaning:
    """Reads and lists, removes nothing. Raises DatasetError where nothing here is known to be of a build, or where a
    manifest cannot be read."""
    mark, oldest = read_mark(output), now - age
    _refuse_links(output)
    chain = _load_manifests(output)
    state = output.files(STATE)
    if not chain and not state:
        raise DatasetError(f"{output.shown}: no manifest.json and no state/: neither a data set nor a build's output")
    builds = _by_build(state)
    young = {build: files for build, files in builds.items() if max(file.modified for file in files) >= oldest}
    data = [file for folder in DATA_FOLDERS for file in output.files(folder)]
    named = {file.name for manifest in chain for file in named_files(manifest)}
    unnamed = [file for file in data if file.name not in named]
    aged = [file for file in unnamed if file.modified < oldest]
    used = _used_by(output, young, aged)
    probes = [file for file in state if file.name.startswith(PROBE) and file.modified < oldest]
    published = {manifest.recipe_id for manifest in chain}
    return Cleaning(
        orphans=[
            *_group_files([*(file for file in aged if file.name not in used), *probes]),
            *_group_states({build: files for build, files in builds.items() if build not in young}, published),
        ],
        uploads=[upload for upload in unfinished_uploads(output, (*DATA_FOLDERS, STATE)) if upload.initiated < oldest],
        kept={
            "that a manifest names": len(data) - len(unnamed),
            "that are younger": len(unnamed) - len(aged),
            "of builds whose state is younger": len(used) + sum(map(len, young.values())),
        },
        oldest=oldest,
        mark=mark,
        generations=len(chain),
    )


def remove_orphans(output: Folder, cleaning: Cleaning) -> None:
    """Raises DatasetError, and leaves what is left, where a run has begun or was published after the folder was listed:
    what were orphans before may be its files."""
    files = [file for orphans in cleaning.orphans for file in orphans.files]
    with ThreadPoolExecutor(REQUESTS) as pool:
        for start in range(0, len(files), BATCH):
            _refuse_new_run(output, cleaning, start)
            list(pool.map(lambda file: _remove(output, file, cleaning.oldest), files[start : start + BATCH]))
        list(pool.map(lambda upload: abort_upload(output, upload), cleaning.uploads))


def _remove(output: Folder, file: StoredFile, oldest: datetime) -> None:
    """Unless it is gone, or a build under way has written it again meanwhile."""
    modified = output.modified(file.name)
    if modified is not None and modified < oldest:
        output.remove(file.name)


def _refuse_new_run(output: Folder, cleaning: Cleaning, removed: int) -> None:
    is_published = output.size(manifest_name(cleaning.generations)) is not None
    if is_published or read_mark(output) != cleaning.mark:
        raise DatasetError(
            f"{output.shown}: a build has {'been published' if is_published else 'begun'} here meanwhile ({removed} "
            "files were removed before); clean again, which looks anew"
        )


def store_time(output: Folder) -> datetime:
    """By the store's own clock, from which its files have their times."""
    if output.is_local:
        return datetime.now(UTC)
    folder = f"{PROBE}{secrets.token_hex(8)}"
    output.write(f"{folder}/now", b"now")
    try:
        return output.files(folder)[0].modified
    finally:
        output.remove(f"{folder}/now")


def _refuse_links(output: Folder) -> None:
    for folder in (*DATA_FOLDERS, STATE) if output.is_local else ():
        if output.local_path(folder).is_symlink():
            raise DatasetError(f"{output.shown}/{folder} is a link; files elsewhere are not removed: clean by hand")


def _load_manifests(output: Folder) -> list[Manifest]:
    """Raises DatasetError where there are manifests that no chain leads to: their files would look like orphans."""
    chain = [] if output.size(MANIFEST) is None else load_chain(output)
    expected = {manifest_name(number) for number in range(len(chain))}
    lost = [name for name in output.names("") if _MANIFEST_FILE.fullmatch(name) and name not in expected]
    if lost:
        raise DatasetError(f"{output.shown}: {lost[0]} is there, but not all manifests before it; restore those first")
    return chain


def _by_build(state: Iterable[StoredFile]) -> dict[str, list[StoredFile]]:
    """The files of state/RECIPE_ID-ENGINE/, by the folder's name."""
    builds: dict[str, list[StoredFile]] = {}
    for file in state:
        _, build, *rest = file.name.split("/")
        if rest and not file.name.startswith(PROBE):
            builds.setdefault(build, []).append(file)
    return builds


def _used_by(output: Folder, builds: Mapping[str, Sequence[StoredFile]], files: Sequence[StoredFile]) -> set[str]:
    """Those of the files that these builds have: their states name them, or the block of that number was begun and has
    no state that can be read, so that nobody knows. Only the states of the files' blocks are read."""
    by_block: dict[str, list[str]] = {}
    for file in files:
        if found := _BLOCK_FILE.match(posixpath.basename(file.name)):
            by_block.setdefault(found["block"], []).append(file.name)
    used: set[str] = set()
    with ThreadPoolExecutor(REQUESTS) as pool:
        for build, state in builds.items():
            store = StateStore(output, *build.split("-", 1))
            blocks = list({posixpath.basename(file.name).partition(".")[0] for file in state} & by_block.keys())
            states = pool.map(store.read, [f"{block}.json" for block in blocks])
            for block, known in zip(blocks, states, strict=True):
                used.update(by_block[block] if known is None else _files_of(known))
    return used.intersection(file.name for file in files)


def _files_of(state: BlockState) -> set[str]:
    return {file.name for file in state.info.files}


def _group_files(files: Iterable[StoredFile]) -> list[Orphans]:
    groups: dict[tuple[str, str], list[StoredFile]] = {}
    for file in files:
        folder, _, name = file.name.partition("/")
        is_rest = _TEMPORARY.fullmatch(posixpath.basename(name)) or folder == STATE
        reason = "the rest of a write that was cut off" if is_rest else "no manifest names them"
        groups.setdefault((folder, reason), []).append(file)
    return [Orphans(folder, reason, found) for (folder, reason), found in groups.items()]


def _group_states(builds: Mapping[str, Sequence[StoredFile]], published: set[str]) -> list[Orphans]:
    return [
        Orphans(STATE, f"of a {'published' if recipe_id in published else 'stopped'} build ({recipe_id[:12]})", files)
        for recipe_id, files in ((build.partition("-")[0], files) for build, files in builds.items())
    ]
