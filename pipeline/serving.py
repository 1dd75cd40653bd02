"""`tokenizer/` of a data set: what a server needs to see the same tokens that were trained."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.chat.formatter import ChatFormatter
from pipeline.golden import make_golden
from pipeline.recipe import Recipe, Tools, given_variables
from schemas.golden import GOLDEN
from schemas.store import Folder


def write_tokenizer_folder(files: Mapping[str, bytes], output: Folder) -> None:
    for name, data in sorted(files.items()):
        output.ensure(f"tokenizer/{name}", data)


def tokenizer_folder(recipe: Recipe, tools: Tools) -> dict[str, bytes]:
    """All files of `tokenizer/`, by name."""
    golden = make_golden(recipe, tools.formatter) if tools.formatter else None
    return serving_files(recipe, tools) | ({GOLDEN: golden.encode()} if golden is not None else {})


def serving_files(recipe: Recipe, tools: Tools) -> dict[str, bytes]:
    """The tokenizer's own files, with the build's template in the place of their own."""
    tokenizer = tools.tokenizer
    files = dict(tokenizer.files)
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    settings |= tokenizer.special_tokens
    settings.pop("chat_template", None)
    if recipe.template is not None:
        settings["chat_template"] = recipe.template.text
        files["chat_template.jinja"] = recipe.template.text.encode()
    files["tokenizer_config.json"] = _json(settings)
    if tools.formatter is not None:
        generation = json.loads(files.get("generation_config.json", b"{}"))
        files["generation_config.json"] = _json({**generation, "eos_token_id": tools.formatter.stop_ids})
        files["packline.json"] = _json(_given(recipe, tools.formatter))
    return files


def _given(recipe: Recipe, formatter: ChatFormatter) -> dict[str, Any]:
    """What the template was given besides the conversation. It stays the official one, so no file can make a server
    give it the same: the server's clock shows another day, and variables come with each request."""
    shown = recipe.config.day if formatter.template.asks_for_date else None
    return {"clock": shown, "template_kwargs": given_variables(recipe.config)}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
