"""What is published, planned once more: a generation with the files that its manifest lists, whatever a listing of
today would find."""

from collections.abc import Iterator, Sequence

from pipeline.blocks import SourceFile
from pipeline.build_plan import BuildPlan, plan_files
from pipeline.config import BuildConfig
from pipeline.readers import check_unchanged
from pipeline.readers.files import Stamp
from pipeline.readers.listing import Match, describe_file
from schemas.generations import NewGeneration
from schemas.manifest import Manifest, Source


def with_first_sources(chain: Sequence[Manifest]) -> Iterator[tuple[Manifest, int]]:
    """Each generation, and the index of its first source."""
    first_source = 0
    for manifest in chain:
        yield manifest, first_source
        first_source += len(manifest.sources)


def plan_again(plan: BuildPlan, manifest: Manifest, first_source: int) -> BuildPlan:
    """A plan for a generation, under the recipe of `plan`. Raises SourceChanged for a file that is gone or has
    changed."""
    files = [_source_file(source, plan.recipe.config) for source in manifest.sources]
    for file in files:
        check_unchanged(file)
    return plan_files(plan, files, NewGeneration(manifest.generation, manifest.parent, first_source))


def _source_file(source: Source, config: BuildConfig) -> SourceFile:
    match = Match(source.path, source.path, Stamp(source.size, source.etag, source.mtime))
    return describe_file(source.setting, config.sources[source.setting], match)
