"""What a row says about the loss of a message: `train` and `weight`."""

import math
from typing import Any, NamedTuple

from pipeline.convert.fields import wrong_type
from schemas.conversation import MessageRole
from schemas.rejects import Reason, RejectRow


class Loss(NamedTuple):
    """The fields of that name of a Message."""

    train: bool | None
    weight: float | None


def read_loss(train: Any, weight: Any, role: MessageRole, path: str, *, loss_weights: bool) -> Loss:
    """Weight 0 is `train: false`, weight 1 is the default, any other is fractional. Raises RejectRow."""
    if train is not None and not isinstance(train, bool):
        raise wrong_type(f"{path}.train", "true or false", train)
    if train and role != "assistant":
        raise RejectRow(Reason.TRAIN_OTHER_ROLE, f"{path}.train is true on a {role} message; {policy_to_use(role)}")
    number = _read_weight(weight, f"{path}.weight")
    if number == 0 and train:
        raise RejectRow(Reason.BAD_WEIGHT, f"{path}: train is true, but weight is 0")
    if number is None or number == 1:
        return Loss(train, None)
    if number == 0:
        return Loss(False, None)
    if not loss_weights:
        option = "set loss_weights: true to keep such weights"
        raise RejectRow(Reason.FRACTIONAL_WEIGHT, f"{path}.weight is {number:g}; {option}")
    return Loss(train, number)


def _read_weight(value: Any, path: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RejectRow(Reason.BAD_WEIGHT, f"{path}: expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not 0 <= number < math.inf:
        raise RejectRow(Reason.BAD_WEIGHT, f"{path} is {number:g}; a weight is finite and not negative")
    return number


def policy_to_use(role: MessageRole) -> str:
    channel = "system" if role == "developer" else role
    policy = f"[{{roles: [assistant, {channel}], parts: [body, reasoning, tool_call, end, markup]}}]"
    return f"to train {channel} messages leave it out and set loss_policy: {policy}"
