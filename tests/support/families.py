"""The chat templates that TRL ships, each with a small tokenizer that has the family's table of added tokens.

The tables follow the published tokenizers: which tokens are flagged special, which stop generation, which take in the
white space around. The merges are a small byte-level vocabulary's, learnt from the templates themselves, so that
template text and content merge across their borders as they do in the real vocabularies.
"""

import functools
import importlib.util
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pipeline.chat.formatter import ChatFormatter
from pipeline.chat.template import ChatTemplate
from pipeline.config import ControlTokens
from pipeline.encoders.huggingface import HuggingFaceEncoder

Mode = Literal["literal", "reject", "parse"]
CLOCK = date.today()
"""transformers reads the clock of the machine."""


@dataclass(frozen=True)
class Family:
    """`special` are flagged added tokens, `plain` unflagged ones; `stops` are generation_config's eos ids by content;
    `rstrip` take in the white space after them."""

    bos: str | None
    eos: str
    special: tuple[str, ...]
    plain: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    rstrip: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def special_tokens(self) -> dict[str, str]:
        bos = {} if self.bos is None else {"bos_token": self.bos}
        return {**bos, "eos_token": self.eos, **self.variables}


def _bars(names: str) -> tuple[str, ...]:
    return tuple(f"<|{name}|>" for name in names.split())


def _tags(names: str) -> tuple[str, ...]:
    return tuple(tag for name in names.split() for tag in (f"<{name}>", f"</{name}>"))


_CHATML = _bars("endoftext im_start im_end")
_QWEN2 = Family(
    None, "<|im_end|>", _CHATML + _bars("vision_start vision_end image_pad video_pad"), _tags("tool_call"), _CHATML[::2]
)
_QWEN3 = Family(None, "<|im_end|>", _QWEN2.special, _tags("tool_call think tool_response"), _CHATML[::2])
_NEMOTRON = Family(
    "<s>", "<|im_end|>", ("<s>", "</s>", *_CHATML[1:]), _tags("think tool_call tools tool_response"), ("<|im_end|>",)
)
_FULL = "begin\u2581of\u2581sentence end\u2581of\u2581sentence"
_DEEPSEEK_MARKS = (
    "User Assistant tool\u2581calls\u2581begin tool\u2581calls\u2581end tool\u2581call\u2581begin "
    "tool\u2581call\u2581end tool\u2581sep tool\u2581outputs\u2581begin tool\u2581outputs\u2581end "
    "tool\u2581output\u2581begin tool\u2581output\u2581end"
)
_BEGIN, _END = (f"<\uff5c{name}\uff5c>" for name in _FULL.split())
_DEEPSEEK = Family(
    _BEGIN,
    _END,
    (_BEGIN, _END),
    (*(f"<\uff5c{name}\uff5c>" for name in _DEEPSEEK_MARKS.split()), *_tags("think")),
    (_END,),
)
_COHERE = _bars("START_OF_TURN_TOKEN END_OF_TURN_TOKEN USER_TOKEN CHATBOT_TOKEN SYSTEM_TOKEN")
_GEMMA_MARKS = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<bos>", "<eos>")
_GEMMA4 = Family(
    "<bos>",
    "<eos>",
    ("<bos>", "<eos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", '<|"|>', "<|image|>", "<|audio|>")
    + ("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"),
    (),
    ("<eos>", "<turn|>", "<|tool_response>"),
)
_LLAMA_MARKS = _bars("begin_of_text end_of_text start_header_id end_header_id eom_id eot_id python_tag")
_LLAMA = Family(_LLAMA_MARKS[0], "<|eot_id|>", _LLAMA_MARKS, (), _bars("end_of_text eom_id eot_id"))
_LFM2_MARKS = _bars(
    "startoftext endoftext im_start im_end tool_list_start tool_list_end tool_call_start tool_call_end "
    "tool_response_start tool_response_end"
)
_LFM2 = Family(_LFM2_MARKS[0], "<|im_end|>", _LFM2_MARKS, _tags("think"), ("<|im_end|>",))
_PHI3_MARKS = _bars("endoftext assistant user system end")
_PHI3 = Family(
    "<s>", "<|endoftext|>", ("<s>", *_PHI3_MARKS), (), _bars("endoftext assistant end"), rstrip=_PHI3_MARKS[1:]
)
_GPT_OSS = _bars("startoftext endoftext return constrain channel start end message call")

FAMILIES: dict[str, Family] = {
    "cohere": Family("<BOS_TOKEN>", _COHERE[1], ("<BOS_TOKEN>", *_COHERE), (), (_COHERE[1],)),
    "cohere2": Family(
        "<BOS_TOKEN>", _COHERE[1], ("<BOS_TOKEN>", *_COHERE), _bars("START_RESPONSE END_RESPONSE"), (_COHERE[1],)
    ),
    "deepseek_r1_distill": _DEEPSEEK,
    "deepseekv3": _DEEPSEEK,
    "diffusion_gemma": _GEMMA4,
    "gemma": Family("<bos>", "<eos>", _GEMMA_MARKS, (), ("<eos>",)),
    "gemma3": Family("<bos>", "<eos>", _GEMMA_MARKS, (), ("<eos>", "<end_of_turn>")),
    **dict.fromkeys(("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"), _GEMMA4),
    "glm4moe": Family(
        None,
        "<|endoftext|>",
        ("[gMASK]", "<sop>", *_bars("endoftext system user assistant observation")),
        _tags("think tool_call tool_response arg_key arg_value tools"),
        _bars("endoftext user observation"),
    ),
    "gptoss": Family(_GPT_OSS[0], "<|return|>", _GPT_OSS, (), _bars("return endoftext call")),
    **dict.fromkeys(("lfm2", "lfm2_v2", "lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"), _LFM2),
    **dict.fromkeys(("llama3", "llama3_1", "llama3_2"), _LLAMA),
    "muse_glimmer": Family(
        "<|begin_of_text|>",
        "<|eot|>",
        _bars("begin_of_text end_of_text start message eot eom patch video"),
        (),
        _bars("eot"),
    ),
    **dict.fromkeys(("nemotron_3_5_lightning", "nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra"), _NEMOTRON),
    **dict.fromkeys(("phi3", "phi3_5"), _PHI3),
    **dict.fromkeys(("qwen2_5", "qwen2_5_vl"), _QWEN2),
    **dict.fromkeys(
        (
            "qwen3",
            "qwen3_5_nothink",
            "qwen3_5_think",
            "qwen3_6",
            "qwen3_8",
            "qwen3_instruct_2507",
            "qwen3_vl",
        ),
        _QWEN3,
    ),
}
"""The families of TRL's originals, but for those whose templates take no content that is plain text (idefics3,
llava_next, smolvlm)."""

_MISTRAL_MARKS = ("<s>", "</s>", "[INST]", "[/INST]")
_MISTRAL_TOOLS = (
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[CALL_ID]", "[ARGS]"),
)
MISTRAL = {
    "mistral_v1": (True, "v1"),
    "mistral_v2": (True, "v2"),
    "mistral_v3": (True, "v3"),
    "mistral_v7": (True, "v7"),
    "mistral_tekken_v3": (False, "v3"),
    "mistral_tekken_v7": (False, "v7"),
    "mistral_tekken_v11": (False, "v11"),
    "mistral_tekken_v13": (False, "v13"),
}
"""The templates that mistral-common generates: whether for sentencepiece, and the tokenizer's version."""

# In the first vocabulary [INST] is plain text.
FAMILIES["mistral_v1"] = Family("<s>", "</s>", _MISTRAL_MARKS[:2], (), ("</s>",))
FAMILIES |= dict.fromkeys(
    [name for name in MISTRAL if name != "mistral_v1"],
    Family("<s>", "</s>", _MISTRAL_MARKS + _MISTRAL_TOOLS, (), ("</s>",)),
)


def template_folder() -> Path | None:
    """The folder of chat templates that TRL ships; None where it is not installed."""
    trl = importlib.util.find_spec("trl")
    if trl is None or not trl.submodule_search_locations:
        return None
    return Path(next(iter(trl.submodule_search_locations))) / "chat_templates"


@functools.cache
def template_source(name: str) -> str:
    if name in MISTRAL:
        return _mistral_template(*MISTRAL[name])
    folder = template_folder()
    assert folder is not None
    return (folder / f"{name}.jinja").read_text("utf-8")


def _mistral_template(spm: bool, version: str) -> str:
    from mistral_common.integrations.chat_templates.chat_templates import generate_chat_template
    from mistral_common.tokens.tokenizers.base import TokenizerVersion

    features = (False, False, False, None, False, True, None, None, None)
    return generate_chat_template(spm, TokenizerVersion[version], *features)


@functools.cache
def _vocabulary() -> str:
    """tokenizer.json of a small byte-level vocabulary, learnt from the templates."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    borders = "\n\n\n \n  >\n>\n\n.\n\n:\n " * 100  # of template text and content, where real vocabularies merge
    sources = sorted(template_source(name) for name in FAMILIES if name not in MISTRAL)
    tokenizer.train_from_iterator([borders, *sources], trainer)
    return tokenizer.to_str()


@functools.cache
def tokenizer_json(name: str) -> str:
    family = FAMILIES[name]
    document = json.loads(_vocabulary())
    vocabulary = document["model"]["vocab"]
    contents = dict.fromkeys((*family.special, *family.plain, *family.stops, family.eos))
    fresh = itertools.count(len(vocabulary))
    document["added_tokens"] = [
        {
            "id": vocabulary[content] if content in vocabulary else next(fresh),
            "content": content,
            "special": content in family.special,
            "single_word": False,
            "lstrip": False,
            "rstrip": content in family.rstrip,
            "normalized": False,
        }
        for content in contents
    ]
    return json.dumps(document)


def token_ids(name: str) -> dict[str, int]:
    return {entry["content"]: entry["id"] for entry in json.loads(tokenizer_json(name))["added_tokens"]}


@functools.cache
def make_family(name: str, template: str | None = None, mode: Mode = "literal") -> ChatFormatter:
    """The family's formatter, with its own template or another one's text. `mode` is that of control_tokens."""
    family, ids = FAMILIES[name], token_ids(name)
    source = template_source(name) if template is None else template
    stop_ids = [ids[content] for content in family.stops]
    document = json.loads(tokenizer_json(name))
    for entry in document["added_tokens"]:
        entry["special"] |= entry["id"] in (*stop_ids, ids[family.eos])
    encoder = HuggingFaceEncoder(json.dumps(document), ids[family.eos])
    chat_template = ChatTemplate(source, family.special_tokens, CLOCK)
    return ChatFormatter(chat_template, encoder, stop_ids, family.eos, control_tokens=ControlTokens(mode=mode))


@functools.cache
def make_served(name: str) -> Any:
    """transformers' tokenizer of the family, with its own template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    served = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer_json(name)))
    for key, value in FAMILIES[name].special_tokens.items():
        setattr(served, key, value)
    served.chat_template = template_source(name)
    return served


def write_family_folder(name: str, folder: Path) -> Path:
    """A model folder as Hugging Face lays it out."""
    family, ids = FAMILIES[name], token_ids(name)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **family.special_tokens,
        "chat_template": template_source(name),
    }
    stops: Sequence[int] = [ids[content] for content in family.stops]
    (folder / "tokenizer.json").write_text(tokenizer_json(name), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(stops)}), "utf-8")
    return folder
