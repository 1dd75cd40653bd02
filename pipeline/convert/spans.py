"""Training on parts of a message: axolotl's `message_field_training_detail`."""

from collections.abc import Sequence
from typing import Any

from pipeline.convert.fields import require_list, require_object
from pipeline.convert.loss import policy_to_use
from schemas.conversation import MessageRole, Span
from schemas.rejects import Reason, RejectRow


def read_spans(value: Any, content: str | None, role: MessageRole, path: str) -> tuple[Span, ...] | None:
    """The stretches of the content that are trained, in order, from {"begin_offset", "end_offset", "train"}, whose
    offsets count characters, the last one included. None for null."""
    if value is None:
        return None
    details = sorted(_read_detail(item, f"{path}[{index}]") for index, item in enumerate(require_list(value, path)))
    check_spans([(begin, end) for begin, end, _ in details], content, path)
    trained = tuple((begin, end) for begin, end, train in details if train)
    if trained and role != "assistant":
        raise RejectRow(Reason.TRAIN_OTHER_ROLE, f"{path} trains parts of a {role} message; {policy_to_use(role)}")
    return trained


def check_spans(spans: Sequence[Span], content: str | None, path: str) -> None:
    """Raises RejectRow unless the spans are in order, apart, and within the content."""
    position, length = 0, len(content or "")
    for begin, end in spans:
        place = f"{path}: characters {begin} to {end - 1}"
        if begin < 0 or end > length:
            raise RejectRow(Reason.BAD_SPANS, f"{place} are not within the content, which has {length}")
        if begin < position:
            raise RejectRow(Reason.BAD_SPANS, f"{place} overlap others")
        if begin >= end:
            raise RejectRow(Reason.BAD_SPANS, f"{place} are none: the last comes before the first")
        position = end


def _read_detail(value: Any, path: str) -> tuple[int, int, bool]:
    detail = require_object(value, path)
    begin, end = (_read_offset(detail.get(key), f"{path}.{key}") for key in ("begin_offset", "end_offset"))
    if not isinstance(detail.get("train"), bool):
        raise RejectRow(Reason.BAD_SPANS, f"{path}.train: expected true or false, got {_kind(detail.get('train'))}")
    return begin, end + 1, detail["train"]


def _read_offset(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RejectRow(Reason.BAD_SPANS, f"{path}: expected a whole number, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
