"""The other stack: transformers renders a request, and tokenizes it as it would when serving the data set's
`tokenizer/` folder."""

import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pipeline.certify.clock import pinned_clock
from pipeline.certify.planned import certificate_here
from pipeline.certify.ranks import load_rank_oracle
from pipeline.certify.raw_rows import Request
from pipeline.config import ToolArguments
from pipeline.recipe import Recipe, Tools, given_variables
from pipeline.serving import serving_files
from schemas.errors import DatasetError
from schemas.manifest import Certificate


@dataclass(frozen=True)
class Oracle:
    """`apply_template` is given messages, and by name what else the template sees. `encode` (of a rendering) and
    `encode_document` (of a plain text) are None where only text is compared."""

    apply_template: Callable[..., str]
    encode: Callable[[str], list[int]] | None
    encode_document: Callable[[str], list[int]] | None
    clock: date
    tool_arguments: ToolArguments
    null_content: bool  # of messages without content, for templates that ask for one

    def render(self, request: Request) -> str:
        """The text of a request. Raises whatever the template raises."""
        from transformers.utils import chat_template_utils

        without = {"content": None} if self.null_content else {}
        messages = [without | _with_arguments(message, self.tool_arguments) for message in request["messages"]]
        with pinned_clock(chat_template_utils, self.clock):
            return self.apply_template(
                messages, tools=request["tools"], documents=request["documents"], **request["kwargs"]
            )


def _with_arguments(message: Mapping[str, Any], form: ToolArguments) -> dict[str, Any]:
    """The message with the arguments of its calls as servers give them to the template: parsed, unless it needs JSON
    text."""
    if "tool_calls" not in message:
        return dict(message)
    calls = [{**call, "function": dict(call["function"])} for call in message["tool_calls"]]
    for function in (call["function"] for call in calls):
        arguments = function["arguments"]
        if form == "object" and isinstance(arguments, str):
            function["arguments"] = json.loads(arguments)
        elif form == "string" and not isinstance(arguments, str):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {**message, "tool_calls": calls}


_loaded: dict[str, Oracle] = {}
"""The oracle of this process by recipe id: of one recipe at a time."""
_loading = threading.Lock()


def load_oracle(recipe: Recipe, tools: Tools, planned: Certificate) -> Oracle:
    """The oracle of this process. Raises DatasetError where it is not the one that was planned."""
    with _loading:
        if recipe.id not in _loaded:
            here = certificate_here(recipe.config, tools.tokenizer.kind)
            if here is None or not here.is_of(planned):
                seen = "no transformers" if here is None else here.shown_versions
                raise DatasetError(
                    f"certify: {seen} on this worker, {planned.shown_versions} where the build was started; "
                    "install the same on both, or build with --set certify=none"
                )
            oracle = _make_oracle(recipe, tools, planned)
            _check_clock(oracle.clock)
            _loaded.clear()
            _loaded[recipe.id] = oracle
        return _loaded[recipe.id]


def _make_oracle(recipe: Recipe, tools: Tools, planned: Certificate) -> Oracle:
    form: ToolArguments = tools.formatter.template.tool_arguments if tools.formatter else "object"
    null_content = tools.formatter is not None and tools.formatter.template.null_content
    clock = date.fromisoformat(recipe.config.day)
    if tools.tokenizer.kind == "huggingface":
        return Oracle(*_serve_folder(recipe, tools), clock, form, null_content)
    ranks = load_rank_oracle(recipe.config.tokenizer, tools.tokenizer) if planned.level == "ids" else None
    variables = {**tools.tokenizer.special_tokens, **given_variables(recipe.config)}
    template = recipe.template.text if recipe.template else ""
    return Oracle(
        lambda messages, **given: _render_bare(template, messages, **(variables | given)),
        ranks.encode if ranks else None,
        ranks.encode_document if ranks else None,
        clock,
        form,
        null_content,
    )


def _serve_folder(
    recipe: Recipe, tools: Tools
) -> tuple[Callable[..., str], Callable[[str], list[int]], Callable[[str], list[int]]]:
    """The first three fields of an oracle that loads the data set's `tokenizer/` folder."""
    tokenizer = _load_tokenizer(serving_files(recipe, tools))
    eos = tools.tokenizer.token_id("eos_token")
    kwargs = given_variables(recipe.config)

    def apply_template(messages: Any, **given: Any) -> str:
        if any(message.get("content", "") is None for message in messages):  # apply_chat_template would leave it out
            return _render_bare(tokenizer.chat_template, messages, **(tokenizer.special_tokens_map | kwargs | given))
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **(kwargs | given)))

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_document(text: str) -> list[int]:
        ids = list(tokenizer(text)["input_ids"])
        return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]

    return apply_template, encode, encode_document


def _load_tokenizer(files: Mapping[str, bytes]) -> Any:
    """What servers load from these files; code that they may name is not run. Raises DatasetError."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="packline-certify-") as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # in any way that a tokenizer's files can be wrong
            told = " ".join(str(error).split())[:200]
            raise DatasetError(
                f"certify: transformers cannot load the tokenizer ({type(error).__name__}: {told}); "
                "mend its folder, or build with --set certify=none"
            ) from error


def _render_bare(template: str, messages: Any, **given: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([messages], chat_template=template, **given)
    return str(rendered[0])


def _check_clock(clock: date) -> None:
    """Another transformers may read the clock in another way. Raises DatasetError."""
    from transformers.utils import chat_template_utils

    with pinned_clock(chat_template_utils, clock):
        seen = _render_bare("{{ strftime_now('%Y-%m-%d') }}", [])
    if seen != clock.isoformat():
        raise DatasetError(
            f"certify: this version of transformers does not take the build's clock ({seen}, not {clock}); "
            "install another, or build with --set certify=none"
        )
