"""The bare encoder's first pass over the text of rows of messages, as a line of JSON: no reading, no template, no mask.
In a process of its own, since the fast one remembers the words that it has seen.

    python tests/benchmarks/encoder.py ROWS.jsonl
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

RANKS = "resources/qwen.tiktoken"


def contents(path: Path) -> list[str]:
    with path.open("rb") as lines:
        rows = [orjson.loads(line) for line in lines]
    return [message["content"] for row in rows for message in row["messages"] if message["content"]]


def make_encode(texts: list[str]) -> tuple[str, Callable[[], object]]:
    """gigatoken, given the column's own memory, where it is installed; tiktoken, text by text, elsewhere."""
    import importlib.util

    spec = importlib.util.find_spec("dashscope")
    assert spec is not None
    assert spec.submodule_search_locations
    ranks = f"{spec.submodule_search_locations[0]}/{RANKS}"
    if importlib.util.find_spec("gigatoken") is None:
        from pipeline.config import Tokenizer
        from pipeline.encoders.load import load_tokenizer

        encoder = load_tokenizer(Tokenizer(path=ranks, preset="qwen2.5")).encoder
        return "tiktoken", lambda: [encoder.encode(text, []) for text in texts]
    import awkward
    import gigatoken
    import pyarrow as pa

    tokenizer = gigatoken.Tokenizer.from_tiktoken(ranks, pretokenizer="qwen2", special_tokens={})
    array = awkward.from_arrow(pa.array(texts, pa.large_string()))
    return "gigatoken", lambda: tokenizer.encode_batch(array, parallel=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rows", type=Path)
    texts = contents(parser.parse_args().rows)
    name, encode = make_encode(texts)
    began = time.perf_counter()
    encode()
    seconds = time.perf_counter() - began
    megabytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) / 1e6
    told: dict[str, Any] = {"engine": name, "seconds": seconds, "megabytes_of_text": megabytes}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
