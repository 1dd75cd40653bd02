"""The config of a build: what may be typed, and that no key is forgotten by the recipe."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import recipe
from pipeline.chat.template import ChatTemplate
from pipeline.config import BuildConfig, Tokenizer, load_config
from pipeline.encoders.load import load_tokenizer
from pipeline.encoders.loaded import LoadedTokenizer
from pipeline.encoders.tokenizer_files import TokenizerFiles
from pipeline.recipe import make_recipe, make_tools, resolved_config
from pipeline.serving import serving_files
from schemas.conversation import Conversation, Message
from schemas.errors import ConfigError
from schemas.policy import DEFAULT_POLICY, PRESETS

QWEN = "package://dashscope/resources/qwen.tiktoken"
TOKENIZER = {"path": QWEN, "preset": "qwen2.5"}
SMALLEST: dict[str, Any] = {
    "output": "out",
    "seq_len": 64,
    "sources": [{"path": "rows.jsonl", "transform": {"type": "text"}}],
    "tokenizer": TOKENIZER,
}


def config(**changes: Any) -> BuildConfig:
    return BuildConfig.model_validate({**SMALLEST, **changes})


def transform(**values: Any) -> BuildConfig:
    return config(sources=[{"path": "rows.jsonl", "transform": values}])


def test_the_defaults() -> None:
    found = config()
    assert (found.seed, found.too_long, found.holdout, found.loss_weights) == (0, "reject", 0, False)
    assert found.loss_policy == DEFAULT_POLICY
    assert (found.block_bytes, found.max_line_bytes, found.max_reject_fraction) == (2**24, 2**26, 0.01)
    assert found.sources[0].format == "auto"
    assert found.sources[0].paths == ["rows.jsonl"]


def test_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "build.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    overrides = ["block_bytes=1MiB", "sources.0.limit=5", "loss_policy=last_turn", "template_kwargs.thinking=false"]
    found = load_config(path, overrides)
    assert found.block_bytes == 2**20
    assert found.sources[0].limit == 5
    assert found.loss_policy == PRESETS["last_turn"]
    assert found.template_kwargs == {"thinking": False}
    assert load_config(path) == config()


@pytest.mark.parametrize(
    ("text", "size"),
    [(1, 1), ("7", 7), ("7B", 7), ("32MiB", 2**25), ("1.5 KiB", 1536), ("500kb", 500_000), ("2 GB", 2 * 10**9)],
)
def test_sizes(text: int | str, size: int) -> None:
    assert config(block_bytes=text).block_bytes == size


@pytest.mark.parametrize("text", ["", "MiB", "32 MB/s", "-1MiB", "1e3", "3TB", 0, "0", -5, None, 1.5])
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(ValidationError, match="block_bytes"):
        config(block_bytes=text)


@given(st.integers(1, 2**32), st.sampled_from(["", "B", "KiB", "MiB", "GiB"]))
def test_a_size_in_binary_units_is_exact(number: int, unit: str) -> None:
    scale = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    assert config(block_bytes=f"{number}{unit}").block_bytes == number * scale


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"seq_len": 7}, "seq_len"),
        ({"seq_len": 2**24 + 1}, "seq_len"),
        ({"sources": []}, "sources"),
        ({"clock": "yesterday"}, "clock"),
        ({"holdout": 1}, "holdout"),
        ({"holdout": -0.1}, "holdout"),
        ({"max_reject_fraction": 1.1}, "max_reject_fraction"),
        ({"too_long": "crop"}, "too_long"),
        ({"loss_policy": "assistants"}, "loss_policy"),
        ({"tool_arguments": "json"}, "tool_arguments"),
        ({"chat_template": {"usr": ["Q: ", ""]}}, "chat_template.*did you mean 'user'"),
        ({"chat_template": {"user": "Q: "}}, "chat_template"),
        ({"chat_template": {"user": ["Q: ", "", ""]}}, "chat_template"),
        ({"chat_template": 7}, "chat_template"),
        ({"sources": [{"path": "a", "transform": {"type": "text"}, "limit": 0}]}, "sources.0.limit"),
        ({"sources": [{"path": "a", "transform": {"type": "chat"}}]}, "sources.0.transform"),
        ({"sources": [{"path": "a"}]}, "sources.0.transform"),
        ({"shuffle": True}, "shuffle"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    path = tmp_path / "build.yaml"
    path.write_text(yaml.safe_dump({**SMALLEST, **changes}))
    with pytest.raises(ConfigError, match=place):
        load_config(path)


@pytest.mark.parametrize("clock", ["2024-02-30", "2024-13-01", "0000-01-01"])
def test_the_clock_is_a_day_of_the_calendar(clock: str) -> None:
    with pytest.raises(ValidationError, match="clock"):
        config(clock=clock)


def test_prompt_and_completion_go_together() -> None:
    transform(type="openai", prompt_column="prompt", completion_column="completion")
    for name in ("prompt_column", "completion_column"):
        with pytest.raises(ValidationError, match="go together"):
            transform(type="openai", **{name: "x"})


@pytest.mark.parametrize("name", ["rows", "a:b:c", ":f", "a:", "1a:f", "a:f()", "a b:f"])
def test_a_custom_function_is_named_by_module_and_name(name: str) -> None:
    transform(type="custom", function="my.module:function")
    with pytest.raises(ValidationError, match="function"):
        transform(type="custom", function=name)


CHANGES: dict[str, tuple[dict[str, Any], bool]] = {
    "output": ({"output": "elsewhere"}, False),
    "max_reject_fraction": ({"max_reject_fraction": 0.5}, False),
    "certify": ({"certify": "none"}, False),
    "allow_differences": ({"allow_differences": True}, False),
    "path of a source": ({"sources": [{"path": "other.jsonl", "transform": {"type": "text"}}]}, False),
    "seq_len": ({"seq_len": 65}, True),
    "seed": ({"seed": 1}, True),
    "clock": ({"clock": "2025-01-01"}, True),
    "too_long": ({"too_long": "split"}, True),
    "loss_policy": ({"loss_policy": "all"}, True),
    "loss_weights": ({"loss_weights": True}, True),
    "holdout": ({"holdout": 0.1}, True),
    "block_bytes": ({"block_bytes": "1MiB"}, True),
    "max_line_bytes": ({"max_line_bytes": "1MiB"}, True),
    "engine": ({"engine": "reference"}, False),
    "control_tokens": ({"control_tokens": "reject"}, True),
    "vocab_size": ({"tokenizer": {**TOKENIZER, "vocab_size": 151936}}, False),
    "template_kwargs": ({"template_kwargs": {"a": 1}}, True),
    "tool_arguments": ({"tool_arguments": "string"}, True),
    "chat_template": ({"chat_template": "chatml"}, True),
    "prompt template": ({"chat_template": {"user": ["Q: ", ""]}}, True),
    "transform": ({"sources": [{"path": "rows.jsonl", "transform": {"type": "text", "column": "body"}}]}, True),
    "limit": ({"sources": [{"path": "rows.jsonl", "transform": {"type": "text"}, "limit": 3}]}, True),
    "eos_token": ({"tokenizer": {**TOKENIZER, "eos_token": "<|endoftext|>"}}, True),
    # What decides the ids of a bare rank file stands in the config alone.
    "pattern": ({"tokenizer": {**TOKENIZER, "pattern": r"\s+|\S+"}}, True),
    "preset": ({"tokenizer": {"path": QWEN, "pattern": r"\s+|\S+"}}, True),
    "special_tokens": (
        {"tokenizer": {**TOKENIZER, "special_tokens": {"<|mine|>": {"id": 151700}}}},
        True,
    ),
}


@lru_cache
def load(settings: str) -> LoadedTokenizer:
    return load_tokenizer(Tokenizer.model_validate_json(settings))


def recipe_id(build: BuildConfig) -> str:
    return make_recipe(build, load(build.tokenizer.model_dump_json())).id


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_changes_with_what_decides_the_bytes_and_with_nothing_else(name: str) -> None:
    changes, decides = CHANGES[name]
    assert (recipe_id(config(**changes)) != recipe_id(config())) == decides


def test_the_order_of_keys_that_a_template_or_a_function_sees_makes_another_recipe() -> None:
    """`{{ schema | tojson }}` prints it."""
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    variables = [recipe_id(config(template_kwargs={"schema": schema})) for schema in (one, other)]
    custom = [{"type": "custom", "function": "json:loads", "args": {"schema": schema}} for schema in (one, other)]
    functions = [recipe_id(config(sources=[{"path": "a.jsonl", "transform": transform}])) for transform in custom]
    assert len({*variables, *functions}) == 4


def test_a_variable_that_is_no_json_is_refused() -> None:
    """YAML makes a date of a bare 2024-07-26, which no server can be sent and no file of the data set can hold."""
    with pytest.raises(ValidationError, match=r"day: .*date is not JSON.*put it in quotes"):
        config(template_kwargs={"day": date(2024, 7, 26)})


def test_the_pattern_alone_makes_another_recipe() -> None:
    one, other = ({"path": QWEN, "pattern": pattern} for pattern in (r"\s+|\S+", r"\S+|\s+|x"))
    assert recipe_id(config(tokenizer=one)) != recipe_id(config(tokenizer=other))


def test_threads_that_ask_at_once_load_one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    build = config(seed=1234)
    made, loads = make_recipe(build, load(build.tokenizer.model_dump_json())), []

    def slowly(settings: Tokenizer, found: TokenizerFiles) -> LoadedTokenizer:
        loads.append(settings)
        time.sleep(0.05)
        return load_tokenizer(settings, found)

    monkeypatch.setattr(recipe, "load_tokenizer", slowly)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: id(recipe.load_tools(made)), range(8)))
    assert len(loads) == len(set(found)) == 1


def test_the_bytes_of_the_tokenizer_make_another_recipe() -> None:
    tokenizer = load_tokenizer(config().tokenizer)
    other = replace(tokenizer, files={name: data + b"\n" for name, data in tokenizer.files.items()})
    assert make_recipe(config(), tokenizer).id != make_recipe(config(), other).id


def test_the_manifest_keeps_every_key_but_output_profiles_and_engine_and_no_secret() -> None:
    build = config(
        output="s3://key:secret@bucket/out",
        sources=[{"path": ["s3://key:secret@bucket/a.jsonl", "b.jsonl"], "transform": {"type": "text"}}],
        chat_template="https://user:secret@host/t.jinja?token=secret",
    )
    values = resolved_config(build)
    assert "secret" not in str(values)
    assert set(values) == set(BuildConfig.model_fields) - {"output", "output_profile", "engine", "watch"}
    assert values["sources"][0]["path"] == ["s3://bucket/a.jsonl", "b.jsonl"]
    assert values["chat_template"] == "https://host/t.jinja"
    assert BuildConfig.model_validate({**values, "output": "out"}).seq_len == 64


def test_a_prompt_template_needs_a_token_that_ends_an_answer() -> None:
    ranks = {"path": QWEN, "pattern": r"\s+|\S+", "special_tokens": {"<|endoftext|>": {"id": 151643}}}
    with pytest.raises(ConfigError, match=r"tokenizer\.eos_token"):
        recipe_id(config(tokenizer=ranks, chat_template={"user": ["Q: ", ""]}))
    assert recipe_id(config(tokenizer=ranks | {"eos_token": "<|endoftext|>"}, chat_template={"user": ["Q: ", ""]}))


def test_the_compiled_prompt_template_is_what_serving_gets() -> None:
    one, same, other = ({"user": ["Q: ", ""]}, {"user": ("Q: ", ""), "tool": ["", ""]}, {"user": ["Q:", ""]})
    assert recipe_id(config(chat_template=one)) == recipe_id(config(chat_template=same))
    assert recipe_id(config(chat_template=one)) != recipe_id(config(chat_template=other))
    tokenizer = load_tokenizer(config().tokenizer)
    recipe = make_recipe(config(chat_template=one), tokenizer)
    files = serving_files(recipe, make_tools(recipe, tokenizer))
    text = files["chat_template.jinja"].decode()
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == text
    template = ChatTemplate(text, tokenizer.special_tokens, date(2024, 7, 26))
    assert template.render(Conversation((Message("user", "a"), Message("assistant", "b")))) == "Q: ab<|im_end|>"
    assert resolved_config(recipe.config)["chat_template"]["user"] == ["Q: ", ""]
