"""What an output folder holds already: its latest generation, and the files that all of them took."""

from pipeline.readers.files import Stamp
from pipeline.watch.waiting import Place
from schemas.generations import Link, NewGeneration, read_links
from schemas.store import Folder


class PublishedChain:
    """Followed from generation to generation, so that each manifest is read once."""

    def __init__(self, output: Folder) -> None:
        self._output = output
        self.last: Link | None = None
        self.taken: dict[Place, Stamp] = {}
        self._sources = 0

    def read_on(self) -> None:
        """Read the generations that were published since. Raises DatasetError where the chain is broken."""
        for link in read_links(self._output, self.last):
            self.last = link
            self._sources += len(link.manifest.sources)
            for source in link.manifest.sources:
                self.taken[source.setting, source.path] = Stamp(source.size, source.etag, source.mtime)

    @property
    def next(self) -> NewGeneration:
        if self.last is None:
            return NewGeneration()
        return NewGeneration(self.last.manifest.generation + 1, self.last.as_parent, self._sources)
