"""What other projects' own preparation takes for rows of messages, as a line of JSON. It imports nothing of ours:
torchtune lives in another environment.

    python tests/benchmarks/peers.py trl ROWS.jsonl MODEL_FOLDER --workers 2 [--masks]
    TORCHTUNE_PYTHON tests/benchmarks/peers.py torchtune ROWS.jsonl LLAMA3_TOKENIZER.model
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.remove(str(Path(__file__).parent))  # our modules have names that others import, too
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def prepare_with_trl(arguments: argparse.Namespace) -> dict[str, Any]:
    """SFTTrainer: render, tokenize, mask, pack. Its imports and a model of no size are not counted."""
    import datasets
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=152064, **sizes, **heads))
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        rows = datasets.load_dataset("json", data_files=arguments.rows, split="train", cache_dir=scratch)
        config = SFTConfig(
            output_dir=scratch,
            max_length=arguments.seq_len,
            packing=True,
            packing_strategy="bfd",
            assistant_only_loss=arguments.masks,
            dataset_num_proc=arguments.workers,
            report_to=[],
            use_cpu=True,
            bf16=False,
        )
        trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
        seconds = time.perf_counter() - began
        packs = trainer.train_dataset
        tokens = sum(map(len, packs["input_ids"]))
    return told(arguments, seconds, len(packs), tokens, "trl", "transformers", "datasets", "tokenizers")


def prepare_with_torchtune(arguments: argparse.Namespace) -> dict[str, Any]:
    from torchtune.datasets import chat_dataset
    from torchtune.models.llama3 import llama3_tokenizer

    tokenizer = llama3_tokenizer(arguments.tokenizer, max_seq_len=arguments.seq_len)
    began = time.perf_counter()
    made = chat_dataset(
        tokenizer,
        source="json",
        data_files=arguments.rows,
        split="train",
        conversation_column="messages",
        conversation_style="openai",
        packed=True,
    )
    seconds = time.perf_counter() - began
    tokens = sum(1 + int(pack["tokens"].nonzero().max()) for pack in made.packs)  # zeros at the end are padding
    return told(arguments, seconds, len(made), tokens, "torchtune", "datasets")


def told(arguments: argparse.Namespace, seconds: float, packs: int, tokens: int, *libraries: str) -> dict[str, Any]:
    from importlib.metadata import version

    megabytes = os.path.getsize(arguments.rows) / 1e6
    return {
        "seconds": seconds,
        "megabytes": megabytes,
        "megabytes_per_second": megabytes / seconds,
        "packs": packs,
        "fill": tokens / packs / arguments.seq_len,
        "versions": {name: version(name) for name in libraries},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("peer", choices=("trl", "torchtune"))
    parser.add_argument("rows")
    parser.add_argument("tokenizer", help="a model folder; for torchtune Llama 3's tokenizer.model")
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--masks", action="store_true", help="assistant_only_loss=True")
    arguments = parser.parse_args()
    prepare = prepare_with_trl if arguments.peer == "trl" else prepare_with_torchtune
    print(json.dumps(prepare(arguments)))


if __name__ == "__main__":
    main()
