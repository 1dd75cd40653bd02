"""A build, planned: what will be read, by which units, under which recipe, and what it is called."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pipeline.block_info import StateStore
from pipeline.blocks import SourceFile, Unit
from pipeline.certify.planned import plan_certificate
from pipeline.certify.sample import choose_units
from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.shipped import TemplateSource
from pipeline.chat.template import ChatTemplate
from pipeline.config import BuildConfig, EngineSetting
from pipeline.convert import Converter, make_converter
from pipeline.encoders.base import Encoder
from pipeline.encoders.engines import EngineChoice, choose_engine
from pipeline.plan import cut_files, list_sources
from pipeline.recipe import Recipe, Tools, keep_tools, load_recipe, load_tools, make_dataset_id
from pipeline.recipe import with_engine as tools_with_engine
from schemas.errors import ConfigError
from schemas.file_system import absolute_url
from schemas.generations import FIRST_GENERATION, NewGeneration
from schemas.manifest import Certificate
from schemas.store import Folder
from schemas.urls import check_url

_READ_ONLY = ("http", "https", "hf")
_MARK = re.compile(r"<\|[^\s|<>{}'\"]{1,40}\|>")


@dataclass(frozen=True)
class BuildPlan:
    """Everything that a worker is told."""

    recipe: Recipe
    converters: tuple[Converter, ...]  # by entry of the config's `sources`; a custom one travels with its code
    files: Mapping[int, SourceFile] = field(default_factory=dict)  # by index of source
    units: tuple[Unit, ...] = ()
    generation: NewGeneration = FIRST_GENERATION
    warnings: tuple[str, ...] = ()
    unflagged_controls: tuple[str, ...] = ()  # control tokens that the tokenizer does not flag special
    certificate: Certificate | None = None  # empty: that of a block without a sampled row; None: nothing is compared
    check_hashes: bool = False  # finished blocks count as whole by the sha256 of their files, not by their sizes

    @cached_property
    def setting_of_source(self) -> dict[int, int]:
        return {source: file.setting for source, file in self.files.items()}

    @cached_property
    def urls(self) -> dict[int, str]:
        return {source: file.url for source, file in self.files.items()}

    @cached_property
    def sampled_units(self) -> frozenset[int]:
        return choose_units(self.units)

    @property
    def dataset_id(self) -> str:
        return make_dataset_id(self.recipe, self.files.values(), self.generation.parent)

    @property
    def output(self) -> Folder:
        return self.recipe.config.output_folder

    @property
    def state(self) -> StateStore:
        return StateStore(self.output, self.recipe.id, self.recipe.engine, self.generation.tag)


def plan_build(config: BuildConfig) -> BuildPlan:
    """Reads the tokenizer and lists the sources; writes nothing. The reference library encodes, until `with_engine`
    chooses another. Raises ConfigError."""
    return plan_files(plan_recipe(config), list_sources(config))


def plan_files(plan: BuildPlan, files: Sequence[SourceFile], generation: NewGeneration = FIRST_GENERATION) -> BuildPlan:
    """A plan for these files under the same recipe. Raises DatasetError for a Parquet file without a footer."""
    sources = cut_files(files, plan.recipe.config, generation.first_source)
    return replace(
        plan,
        files=dict(enumerate(files, generation.first_source)),
        units=sources.units,
        generation=generation,
        warnings=(*sources.warnings, *plan.warnings),
    )


def plan_recipe(config: BuildConfig) -> BuildPlan:
    """The plan but for its files."""
    check_output(config.output)
    config = config.model_copy(update={"output": absolute_url(config.output)})
    recipe, tools = load_recipe(config)
    tokenizer, formatter = tools.tokenizer, tools.formatter
    return BuildPlan(
        recipe=recipe,
        converters=tuple(
            make_converter(source.transform, loss_weights=config.loss_weights) for source in config.sources
        ),
        certificate=plan_certificate(config, tokenizer.kind),
        unflagged_controls=_unflagged(tokenizer.encoder, formatter) if formatter else (),
        warnings=(
            *tokenizer.warnings,
            *_parse_warning(config, tools),
            *(template_warnings(config, formatter.template) if formatter else ()),
            *(_foreign_marks(recipe.template, tokenizer.encoder) if recipe.template else ()),
        ),
    )


def check_output(url: str) -> None:
    """Raises ConfigError for a URL with a secret in it, and for a store that cannot be written as a data set is."""
    check_url("output", url)
    scheme = url.partition("://")[0]
    if scheme in _READ_ONLY:
        raise ConfigError(
            f"output: {scheme}:// is for sources; build into a folder or an object store, and upload that"
        )


def with_engine(plan: BuildPlan, setting: EngineSetting) -> tuple[BuildPlan, EngineChoice]:
    """The plan with the library chosen that encodes its blocks. Raises ConfigError."""
    tools = load_tools(plan.recipe)
    choice = choose_engine(setting, tools.documents.encoder)
    recipe = replace(plan.recipe, engine=choice.name)
    keep_tools(recipe, tools_with_engine(tools, recipe, choice.certified))
    return replace(plan, recipe=recipe), choice


def template_warnings(config: BuildConfig, template: ChatTemplate) -> Iterator[str]:
    """What the probes have shown of the template that the user should know."""
    for name in sorted(template.environment.uncovered):
        yield f"the chat template calls {name}, which is not traced: its result counts as row text"
    if template.asks_for_date and config.clock is None:
        yield (
            f"the chat template shows today's date, and the config has no clock: every row shows {config.day}. "
            f"Type `clock: {config.day}` to keep that, or another day"
        )


def _foreign_marks(template: TemplateSource, encoder: Encoder) -> Iterator[str]:
    """A template from elsewhere may write the marks of another family. Then the model learns to spell them."""
    if template.origin == "tokenizer":
        return
    known = {token.content for token in encoder.added_tokens}
    foreign = [mark for mark in dict.fromkeys(_MARK.findall(template.text)) if mark not in known]
    if foreign:
        yield (
            f"the chat template ({template.origin}) writes {' '.join(foreign)}, which the tokenizer does not have: "
            "ordinary text to the model. Add them with tokenizer.special_tokens, or choose another chat_template"
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
