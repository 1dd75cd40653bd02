"""What a row gives to its template beside the messages: tool definitions, documents, variables.

All of it is kept as JSON text. Text in a row stays as it came; of what came as objects, null keys are left out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.config import RESERVED_VARIABLES, OpenAI, ShareGPT
from pipeline.convert.fields import require_list, require_object
from pipeline.convert.json_text import dump_json, dump_without_nulls, parse_json, without_nulls
from schemas.conversation import Conversation, Message
from schemas.rejects import Reason, RejectRow


class ContextColumns(NamedTuple):
    """The settings of the same name; a row may lack each of the columns."""

    tools_column: str | None = "tools"
    documents_column: str | None = "documents"
    template_kwargs_column: str | None = "chat_template_kwargs"


def make_conversation(
    messages: tuple[Message, ...], row: Mapping[str, Any], columns: ContextColumns | OpenAI | ShareGPT
) -> Conversation:
    """Raises RejectRow for a column that holds something else."""
    return Conversation(
        messages,
        tools=_read_objects(row, columns.tools_column),
        documents=_read_objects(row, columns.documents_column),
        template_kwargs=_read_variables(row, columns.template_kwargs_column),
    )


def has_no_context(row: Mapping[str, Any], columns: ContextColumns | OpenAI | ShareGPT) -> bool:
    """Whether these columns are absent, null or empty, those of lists also where they hold an empty one."""
    variables = columns.template_kwargs_column
    return not (variables and row.get(variables) not in (None, "")) and not any(
        row.get(name) not in (None, [], "") for name in list_columns(columns) if name
    )


def list_columns(columns: ContextColumns | OpenAI | ShareGPT) -> tuple[str | None, ...]:
    return columns.tools_column, columns.documents_column


def check_variables(value: Any, path: str) -> None:
    for name in require_object(value, path):
        if name in RESERVED_VARIABLES:
            raise RejectRow(Reason.TEMPLATE_ERROR, f"{path}: {name!r} is set by the build; give it in its own column")


def _read_objects(row: Mapping[str, Any], column: str | None) -> str | None:
    """A list of objects; None where the row has none."""
    given = row.get(column) if column else None
    path = str(column)
    value = _parsed(given, path)
    if value is None or value == []:
        return None
    for index, item in enumerate(require_list(value, path)):
        require_object(item, f"{path}[{index}]")
    return given if isinstance(given, str) else dump_without_nulls(value, path)


def _read_variables(row: Mapping[str, Any], column: str | None) -> str | None:
    given = row.get(column) if column else None
    path = str(column)
    value = _parsed(given, path) if isinstance(given, str) else without_nulls(given, path)
    if value is None or value == {}:
        return None
    check_variables(value, path)
    return given if isinstance(given, str) else dump_json(value, path)


def _parsed(value: Any, path: str) -> Any:
    """The value of a column that may be JSON text; empty text is null."""
    return parse_json(value or "null", path, Reason.INVALID_JSON) if isinstance(value, str) else value
