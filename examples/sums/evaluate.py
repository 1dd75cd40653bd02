"""Ask an exported model all held-out sums, through transformers alone: none of Packline's code runs here.

    python examples/sums/evaluate.py out/sums/run/model out/sums/rows/held_out.jsonl

Exit code 1 if fewer than 95 % of the answers are exactly the sum, or if any turn does not end in a stop token of the
model's generation_config.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WANTED = 0.95
BATCH = 256
LONGEST_ANSWER = 8  # tokens: three digits, the terminator, and room to go wrong in


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    ended: bool


def ask(model: Any, tokenizer: Any, questions: list[list[dict[str, str]]]) -> list[Answer]:
    """Greedy answers to prompts made by the exported chat template."""
    prompts = tokenizer.apply_chat_template(
        questions, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        written = model.generate(**prompts, do_sample=False, max_new_tokens=LONGEST_ANSWER)
    stops = as_set(model.generation_config.eos_token_id)
    return [cut_at_stop(ids, stops, tokenizer) for ids in written[:, prompts["input_ids"].shape[1] :].tolist()]


def as_set(ids: int | list[int]) -> set[int]:
    return {ids} if isinstance(ids, int) else set(ids)


def cut_at_stop(ids: list[int], stops: set[int], tokenizer: Any) -> Answer:
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    return Answer(tokenizer.decode(ids[:end]), ended=end is not None)


def passes(answers: list[Answer], sums: list[str]) -> bool:
    """Print both counts, and say whether they are what is wanted."""
    exact = sum(answer.text == wanted for answer, wanted in zip(answers, sums, strict=True))
    ended = sum(answer.ended for answer in answers)
    print(f"{exact} of {len(sums)} held-out sums exact: {exact / len(sums):.1%}, wanted {WANTED:.0%}")
    print(f"{ended} of {len(sums)} turns end in a stop token of generation_config, wanted all")
    return exact >= WANTED * len(sums) and ended == len(sums)


def main() -> None:
    folder, rows_file = map(Path, sys.argv[1:])
    rows = [json.loads(line)["messages"] for line in rows_file.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    questions = [row[:1] for row in rows]
    starts = range(0, len(questions), BATCH)
    answers = [answer for start in starts for answer in ask(model, tokenizer, questions[start : start + BATCH])]
    if not passes(answers, [row[1]["content"] for row in rows]):
        sys.exit(1)


if __name__ == "__main__":
    main()
