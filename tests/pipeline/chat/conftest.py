"""Formatters over real tokenizers, and the laws that every formatted conversation keeps."""

import importlib.util
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from model_folders import load_once

from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.shipped import choose_template
from pipeline.chat.template import ChatTemplate

MakeFormatter = Callable[..., ChatFormatter]


@pytest.fixture(scope="session")
def make_formatter() -> MakeFormatter:
    def make(path: str | Path, template: str | None = None, **settings: Any) -> ChatFormatter:
        tokenizer = load_once(str(path), **settings)
        preset = tokenizer.preset.chat_template if tokenizer.preset else None
        source = choose_template(template, tokenizer.chat_template, preset)
        assert source is not None
        chat_template = ChatTemplate(source.text, tokenizer.special_tokens, date(2024, 7, 26))
        return ChatFormatter(
            chat_template, tokenizer.encoder, tokenizer.stop_ids, tokenizer.special_tokens.get("eos_token")
        )

    return make


@pytest.fixture(scope="session")
def qwen(qwen_folder: Path, make_formatter: MakeFormatter) -> ChatFormatter:
    return make_formatter(qwen_folder)


@pytest.fixture(scope="session")
def llama(llama_folder: Path, make_formatter: MakeFormatter) -> ChatFormatter:
    return make_formatter(llama_folder)


@pytest.fixture(scope="session")
def qwen_ranks(make_formatter: MakeFormatter) -> ChatFormatter:
    return make_formatter("package://dashscope/resources/qwen.tiktoken", preset="qwen2.5")


@pytest.fixture(scope="session")
def llama_ranks(make_formatter: MakeFormatter) -> ChatFormatter:
    return make_formatter("package://llama_models/llama3/tokenizer.model", preset="llama3")


@pytest.fixture(scope="session")
def trl_templates() -> Path:
    """The folder of chat templates that TRL ships."""
    trl = importlib.util.find_spec("trl")
    if trl is None or not trl.submodule_search_locations:
        pytest.skip("trl is not installed")
    return Path(next(iter(trl.submodule_search_locations))) / "chat_templates"
