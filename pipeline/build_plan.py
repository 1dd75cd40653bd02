"""A build, planned: what will be read, by which units, under which recipe, and what it is called."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pipeline.block_info import StateStore
from pipeline.blocks import SourceFile, Unit
from pipeline.chat.formatter import ChatFormatter
from pipeline.config import BuildConfig
from pipeline.convert import Converter, make_converter
from pipeline.encoders.base import Encoder
from pipeline.encoders.load import load_tokenizer
from pipeline.plan import plan_sources
from pipeline.recipe import Recipe, Tools, keep_tools, make_dataset_id, make_recipe, make_tools
from schemas.errors import ConfigError
from schemas.store import Folder


@dataclass(frozen=True)
class BuildPlan:
    """Everything that a worker is told."""

    recipe: Recipe
    files: tuple[SourceFile, ...]
    units: tuple[Unit, ...]
    converters: tuple[Converter, ...]  # by entry of the config's `sources`; a custom one travels with its code
    warnings: tuple[str, ...] = ()
    unflagged_controls: tuple[str, ...] = ()  # control tokens that the tokenizer does not flag special

    @cached_property
    def setting_of_source(self) -> tuple[int, ...]:
        return tuple(file.setting for file in self.files)

    @cached_property
    def urls(self) -> tuple[str, ...]:
        return tuple(file.url for file in self.files)

    @property
    def dataset_id(self) -> str:
        return make_dataset_id(self.recipe, self.files)

    @property
    def output(self) -> Folder:
        return Folder(self.recipe.config.output)

    @property
    def state(self) -> StateStore:
        return StateStore(self.output, self.recipe.id)


def plan_build(config: BuildConfig) -> BuildPlan:
    """Reads the tokenizer and lists the sources; writes nothing. Raises ConfigError."""
    if config.output.startswith("memory://"):
        raise ConfigError("output: memory:// is seen by one process alone; give a folder or an object store's URL")
    tokenizer = load_tokenizer(config.tokenizer)
    recipe = make_recipe(config, tokenizer)
    tools = make_tools(recipe, tokenizer)
    keep_tools(recipe, tools)
    formatter = tools.formatter
    sources = plan_sources(config)
    uncovered = sorted(formatter.template.environment.uncovered) if formatter else []
    return BuildPlan(
        recipe=recipe,
        files=sources.files,
        units=sources.units,
        converters=tuple(
            make_converter(source.transform, loss_weights=config.loss_weights) for source in config.sources
        ),
        unflagged_controls=_unflagged(tokenizer.encoder, formatter) if formatter else (),
        warnings=(
            *sources.warnings,
            *tokenizer.warnings,
            *_parse_warning(config, tools),
            *(
                f"the chat template calls {name}, which is not traced: its result counts as row text"
                for name in uncovered
            ),
        ),
    )


def _parse_warning(config: BuildConfig, tools: Tools) -> Iterator[str]:
    if config.control_tokens.mode == "parse":
        names = [token.content for token in tools.documents.encoder.added_tokens if token.special]
        shown = " ".join(names[:10]) + (" ..." if len(names) > 10 else "")
        yield (
            f"control_tokens: parse: a row that holds the text of one of {len(names)} control tokens ({shown}) gets "
            "the token itself, so whoever writes rows can forge turns; literal keeps it text, reject rejects the row"
        )


def _unflagged(encoder: Encoder, formatter: ChatFormatter) -> tuple[str, ...]:
    flagged = {token.content for token in encoder.added_tokens if token.special}
    return tuple(token.content for token in formatter.control_tokens if token.content not in flagged)
