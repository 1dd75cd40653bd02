"""A config made ready: the tokenizer loaded, the template chosen, the recipe's identity known."""

import importlib.metadata
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from pipeline.blocks import SourceFile
from pipeline.chat.control_tokens import with_chosen_controls
from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.probe import try_out
from pipeline.chat.shipped import TemplateSource, choose_template, shipped_names
from pipeline.chat.template import ChatTemplate
from pipeline.config import BuildConfig, Custom, PromptTemplate, Text
from pipeline.convert import module_source
from pipeline.encoders.batch import BatchEncoder, Strings
from pipeline.encoders.engines import FAST_ENGINES, make_batch_encoder
from pipeline.encoders.load import load_tokenizer
from pipeline.encoders.loaded import LoadedTokenizer
from pipeline.encoders.tokenizer_files import TokenizerFiles
from pipeline.tokenize import DocumentTokenizer
from schemas import __version__
from schemas.errors import ConfigError
from schemas.manifest import Parent
from schemas.recipe import RECIPE_FIELDS, RECIPE_SOURCE_FIELDS, canonical_sha256, dataset_id
from schemas.urls import without_secrets


@dataclass(frozen=True)
class Recipe:
    """What turns a row into bytes. Picklable: a worker loads the tokenizer by itself, from the bytes of its files, for
    it may not reach their folder. `engine`, the library that encodes blocks, is no part of the id: they all give the
    same ids."""

    config: BuildConfig
    template: TemplateSource | None
    tokenizer_files: TokenizerFiles | None = field(repr=False)
    tokenizer_sha256: str
    pad_id: int
    id: str
    engine: str


@dataclass(frozen=True)
class Tools:
    """What a worker needs for its rows, loaded once a process."""

    documents: DocumentTokenizer
    formatter: ChatFormatter | None
    tokenizer: LoadedTokenizer
    engine: str

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of the packages that make ids, by name."""
        names = dict.fromkeys([self.engine, *self.tokenizer.encoder.libraries])
        return {name: importlib.metadata.version(name) for name in names}


def make_recipe(config: BuildConfig, tokenizer: LoadedTokenizer) -> Recipe:
    """Raises ConfigError where conversations have no template to be rendered with."""
    preset = tokenizer.preset.chat_template if tokenizer.preset else None
    template = choose_template(config.chat_template, tokenizer.chat_template, preset)
    if template is None and any(not isinstance(source.transform, Text | Custom) for source in config.sources):
        raise ConfigError(
            f"chat_template: {config.tokenizer.path} has none of its own; give a file or one of "
            f"{', '.join(shipped_names())}"
        )
    if isinstance(config.chat_template, PromptTemplate) and "eos_token" not in tokenizer.special_tokens:
        raise ConfigError(
            f"chat_template: a prompt template ends every answer with EOS, and {config.tokenizer.path} has none; "
            "set tokenizer.eos_token"
        )
    identity = {
        "packline": __version__,
        "tokenizer": tokenizer.sha256,
        "tokenizer_settings": _tokenizer_settings(config),
        "special_tokens": dict(tokenizer.special_tokens),
        "stop_ids": sorted(tokenizer.stop_ids),
        "template": template.text if template else None,
        "custom": [
            module_source(source.transform.function)
            for source in config.sources
            if isinstance(source.transform, Custom)
        ],
        **_recipe_fields(config),
    }
    return Recipe(
        config,
        template,
        tokenizer.found,
        tokenizer.sha256,
        tokenizer.pad_id,
        canonical_sha256(identity),
        engine=tokenizer.encoder.libraries[0],
    )


def _tokenizer_settings(config: BuildConfig) -> dict[str, Any]:
    """Without paths, since the bytes of files count and not their places; the vocabulary's size is a check alone."""
    values = config.tokenizer.model_dump(mode="json", exclude={"path", "vocab_size"})
    return values | ({"special_tokens": "file"} if isinstance(values["special_tokens"], str) else {})


def _recipe_fields(config: BuildConfig) -> dict[str, Any]:
    """A template or a function of the user's may look at the order of keys, so what it is given is kept as text."""
    values = config.model_dump(mode="json")
    sources = [{key: source[key] for key in RECIPE_SOURCE_FIELDS} for source in values["sources"]]
    for transform in (source["transform"] for source in sources):
        if "args" in transform:
            transform["args"] = json.dumps(transform["args"])
    given = {"clock": config.day, "template_kwargs": json.dumps(given_variables(config)), "sources": sources}
    return {**{key: values[key] for key in RECIPE_FIELDS}, **given}


def make_dataset_id(recipe: Recipe, files: Iterable[SourceFile], parent: Parent | None = None) -> str:
    keys = ("setting", "size", "etag", "mtime")
    sources = [{"path": file.url} | {key: getattr(file, key) for key in keys} for file in files]
    return dataset_id(recipe.id, sources, parent.sha256 if parent else None)


def make_formatter(recipe: Recipe, tokenizer: LoadedTokenizer) -> ChatFormatter | None:
    """Raises ConfigError for a template that does not compile, or renders nothing at all."""
    if recipe.template is None:
        return None
    variables = {**tokenizer.special_tokens, **given_variables(recipe.config)}
    day = date.fromisoformat(recipe.config.day)
    template = ChatTemplate(recipe.template.text, variables, day, recipe.config.tool_arguments)
    try_out(template)
    return ChatFormatter(
        template,
        tokenizer.encoder,
        tokenizer.stop_ids,
        tokenizer.special_tokens.get("eos_token"),
        control_tokens=recipe.config.control_tokens,
        split_history=recipe.config.reasoning_history == "split",
    )


def given_variables(config: BuildConfig) -> dict[str, Any]:
    """template_kwargs, and where the config has a clock the variable in which Llama's templates look for the date: they
    show one of their own where nobody gives it."""
    if config.clock is None:
        return config.template_kwargs
    return {"date_string": date.fromisoformat(config.clock).strftime("%d %b %Y"), **config.template_kwargs}


def make_tools(recipe: Recipe, tokenizer: LoadedTokenizer) -> Tools:
    formatter = make_formatter(recipe, tokenizer)
    if formatter:
        encoder = formatter.encoder
    else:
        ends = [token for token in tokenizer.encoder.added_tokens if token.id == tokenizer.token_id("eos_token")]
        encoder = with_chosen_controls(tokenizer.encoder, ends, (), recipe.config.control_tokens)
    return Tools(
        documents=DocumentTokenizer(recipe.config, encoder, formatter, make_batch_encoder(recipe.engine, encoder)),
        formatter=formatter,
        tokenizer=tokenizer,
        engine=recipe.engine,
    )


def with_engine(tools: Tools, recipe: Recipe, certified: BatchEncoder | None = None) -> Tools:
    """The same tools with the recipe's engine, which is made anew unless it was certified in this process."""
    encoder = tools.documents.encoder
    batch = certified or make_batch_encoder(recipe.engine, encoder)
    documents = DocumentTokenizer(recipe.config, encoder, tools.formatter, batch)
    return replace(tools, documents=documents, engine=recipe.engine)


def load_fast_engine(recipe: Recipe, tools: Tools) -> None:
    """Keep tools with the fast engine that a build most likely chooses. Raises EngineMissing."""
    likely = replace(recipe, engine=next(iter(FAST_ENGINES)))
    tools = with_engine(tools, likely)
    if tools.documents.batch is not None:
        tools.documents.batch.encode(Strings.of(["a"]))  # it is built at its first text
    keep_tools(likely, tools)


_loaded: dict[tuple[str, str], Tools] = {}
"""The tools of this process by recipe id and engine: of one recipe at a time."""
_loading = threading.RLock()
"""A worker's threads ask for them all at once; one of them loads."""


def keep_tools(recipe: Recipe, tools: Tools) -> None:
    with _loading:
        _loaded.clear()
        _loaded[recipe.id, recipe.engine] = tools


def load_recipe(config: BuildConfig) -> tuple[Recipe, Tools]:
    """The recipe of a config; its tools are kept for this process. Raises ConfigError."""
    tokenizer = load_tokenizer(config.tokenizer)
    recipe = make_recipe(config, tokenizer)
    tools = make_tools(recipe, tokenizer)
    keep_tools(recipe, tools)
    return recipe, tools


def load_tools(recipe: Recipe) -> Tools:
    """The tools of this process."""
    with _loading:
        others = next((tools for (known, _), tools in _loaded.items() if known == recipe.id), None)
        if others is not None and others.engine != recipe.engine:
            keep_tools(recipe, with_engine(others, recipe))
        if (recipe.id, recipe.engine) not in _loaded:
            tokenizer = load_tokenizer(recipe.config.tokenizer, recipe.tokenizer_files)
            keep_tools(recipe, make_tools(recipe, tokenizer))
        return _loaded[recipe.id, recipe.engine]


def resolved_config(config: BuildConfig) -> dict[str, Any]:
    """The config as the manifest keeps it: every default filled in, without the output, profiles, the engine (the
    manifest's tokenizer says which one ran), what only `watch` looks at, and secrets."""
    left_out = {"output", "output_profile", "engine", "watch"}
    values = config.model_dump(mode="json", exclude=left_out) | {"clock": config.day}
    for source in values["sources"]:
        del source["profile"]
        paths = source["path"]
        source["path"] = [without_secrets(path) for path in ([paths] if isinstance(paths, str) else paths)]
    for key in ("path", "special_tokens"):
        if isinstance(values["tokenizer"][key], str):
            values["tokenizer"][key] = without_secrets(values["tokenizer"][key])
    if isinstance(values["chat_template"], str):
        values["chat_template"] = without_secrets(values["chat_template"])
    return values
