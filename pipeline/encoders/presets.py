"""What a bare rank file leaves open, for the model families that are published as one."""

from dataclasses import dataclass

from pipeline.encoders.base import AddedToken

_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_PATTERN = _LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")

_LLAMA3_NAMED = {
    128000: "begin_of_text",
    128001: "end_of_text",
    128004: "finetune_right_pad_id",
    128006: "start_header_id",
    128007: "end_header_id",
    128008: "eom_id",
    128009: "eot_id",
    128010: "python_tag",
}
_QWEN_SPECIAL = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
    "vision_start vision_end vision_pad image_pad video_pad"
)
_QWEN_PLAIN = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
)


@dataclass(frozen=True, slots=True)
class Preset:
    """`stop_tokens` are the eos ids of the family's generation_config; the template is one that we ship."""

    pattern: str
    added_tokens: tuple[AddedToken, ...]
    nfc: bool
    bos_token: str | None
    eos_token: str
    pad_token: str
    stop_tokens: tuple[str, ...]
    chat_template: str


def _llama3_tokens() -> tuple[AddedToken, ...]:
    """The 256 control tokens of Llama 3.1: the named ones, and reserved ones numbered through."""
    tokens, reserved = [], 0
    for index in range(128000, 128256):
        name = _LLAMA3_NAMED.get(index)
        if name is None:
            name, reserved = f"reserved_special_token_{reserved}", reserved + 1
        tokens.append(AddedToken(f"<|{name}|>", index, special=True))
    return tuple(tokens)


def _qwen_tokens() -> tuple[AddedToken, ...]:
    special = [(f"<|{name}|>", True) for name in _QWEN_SPECIAL.split()]
    plain = [(name, False) for name in _QWEN_PLAIN.split()]
    return tuple(AddedToken(name, 151643 + number, flag) for number, (name, flag) in enumerate([*special, *plain]))


PRESETS = {
    "llama3": Preset(
        pattern=_LLAMA3_PATTERN,
        added_tokens=_llama3_tokens(),
        nfc=False,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        stop_tokens=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        chat_template="llama3.1",
    ),
    "qwen2.5": Preset(
        pattern=_QWEN_PATTERN,
        added_tokens=_qwen_tokens(),
        nfc=True,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        stop_tokens=("<|im_end|>", "<|endoftext|>"),
        chat_template="qwen2.5",
    ),
}
