"""One look at the sources: which files are there, and which of them are marked as complete."""

from collections.abc import Container
from typing import NamedTuple

from pipeline.config import BuildConfig
from pipeline.readers.files import Stamp, read_stamp
from pipeline.readers.listing import Match, match_files
from pipeline.watch.waiting import Place
from schemas.file_system import find_file_system
from schemas.retry import call_store


class Look(NamedTuple):
    """The files by place, in the order of the config's `sources`. `marked` is None where no marker is asked for."""

    files: dict[Place, Match]
    marked: set[Place] | None

    @property
    def stamps(self) -> dict[Place, Stamp]:
        return {place: match.stamp for place, match in self.files.items()}


def look_at_sources(config: BuildConfig, taken: Container[Place]) -> Look:
    """Raises ConfigError for a path that cannot be listed. Markers of taken files are not looked for."""
    files = {
        (setting, match.url): match
        for setting, source in enumerate(config.sources)
        for match in match_files(setting, source, may_be_none=True)
    }
    marker = config.watch.marker
    if marker is None:
        return Look(files, None)
    new = {place: match.url for place, match in files.items() if place not in taken}
    profiles = [source.profile for source in config.sources]
    marked = {place: url for place, url in new.items() if _exists(url + marker, profiles[place[0]])}
    stamps = {place: _stamp_now(url, profiles[place[0]]) for place, url in marked.items()}
    found = {place: files[place]._replace(stamp=stamp) for place, stamp in stamps.items() if stamp is not None}
    return Look(files | found, set(found))


def _exists(url: str, profile: str | None) -> bool:
    fs, path = find_file_system(url, profile)
    return bool(call_store(url, lambda: fs.exists(path)))


def _stamp_now(url: str, profile: str | None) -> Stamp | None:
    """A file's stamp, after its marker was seen: the one that the listing saw may be older than the marker. None where
    the file was removed since."""
    fs, path = find_file_system(url, profile)
    fs.invalidate_cache()
    try:
        return read_stamp(fs, path)
    except FileNotFoundError:
        return None
