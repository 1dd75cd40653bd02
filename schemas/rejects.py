"""Why a row gave no document. A reject never takes another row with it."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    LINE_TOO_LONG = "line_too_long"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    INVALID_CSV = "invalid_csv"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_COLUMN = "missing_column"
    WRONG_TYPE = "wrong_type"
    UNKNOWN_ROLE = "unknown_role"
    EMPTY = "empty"
    UNSUPPORTED_CONTENT = "unsupported_content"  # images, audio
    INVALID_TOOL_CALL = "invalid_tool_call"
    BAD_WEIGHT = "bad_weight"
    FRACTIONAL_WEIGHT = "fractional_weight"  # without loss_weights: true
    BAD_SPANS = "bad_spans"
    TRAIN_OTHER_ROLE = "train_other_role"  # `train: true` on a message that the policy does not train
    CUSTOM_ERROR = "custom_error"
    TEMPLATE_ERROR = "template_error"
    NOT_EMITTED = "not_emitted"
    NONE_RENDERED = "none_rendered"
    CONTROL_TOKEN = "control_token"  # with control_tokens: reject
    UNENCODABLE = "unencodable"
    TOO_LONG = "too_long"
    NO_TRAINED_TOKENS = "no_trained_tokens"


_MOST_CHARACTERS = 1000


class RejectRow(ValueError):
    """Raised by a step that cannot turn a row into documents. The detail is shortened, and is text that can be written:
    a template or a custom function may have put anything there."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = Reason(reason)
        self.detail = str(detail)[:_MOST_CHARACTERS].encode(errors="backslashreplace").decode()
        super().__init__(f"{self.reason}: {self.detail}")

    def __reduce__(self) -> tuple[type["RejectRow"], tuple[Reason, str]]:
        return RejectRow, (self.reason, self.detail)


@dataclass(frozen=True, slots=True)
class Reject:
    """A rejected row: `source` indexes the manifest's sources, `position` is where the row began."""

    source: int
    position: int
    reason: Reason
    detail: str
