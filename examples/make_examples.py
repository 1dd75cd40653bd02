"""Write the rows of the demo: small facts, sums and calls, simple enough for a tiny model to learn.

    python examples/make_examples.py

The same rows come out each time; five rows of chat.jsonl are bad on purpose.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

HERE = Path(__file__).parent
Item = TypeVar("Item")
Row = dict[str, Any]

NAMES = ["Ada", "Ben", "Chloe", "Dev", "Emil", "Fatima", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Luis"]
GREETINGS = ["Hello", "Hi", "Good morning", "Good evening", "Hey there"]
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Norway": "Oslo",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Canada": "Ottawa",
    "Cuba": "Havana",
}
ANIMALS = {
    "cow": ("moo", "grass", "four"),
    "dog": ("woof", "meat", "four"),
    "cat": ("meow", "fish", "four"),
    "duck": ("quack", "water plants", "two"),
    "sheep": ("baa", "grass", "four"),
    "hen": ("cluck", "corn", "two"),
    "frog": ("ribbit", "flies", "four"),
    "owl": ("hoot", "mice", "two"),
    "horse": ("neigh", "hay", "four"),
}
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "fast": "slow",
    "early": "late",
    "light": "dark",
    "open": "closed",
    "wet": "dry",
    "loud": "quiet",
    "full": "empty",
    "young": "old",
}
WEATHER = ["sunny", "cloudy", "rainy", "windy", "snowy"]
SEASONS = {
    "spring": "the trees turn green",
    "summer": "the days are long",
    "autumn": "the leaves fall",
    "winter": "snow may fall",
}


def spread(items: Iterable[Item], count: int) -> list[Item]:
    """`count` of the items, evenly spaced."""
    every = list(items)
    return [every[index * len(every) // count] for index in range(count)]


def message(role: str, content: Any, **more: Any) -> Row:
    return {"role": role, "content": content, **more}


def turn(question: str, answer: str, **more: Any) -> list[Row]:
    return [message("user", question), message("assistant", answer, **more)]


def animal_turns(animal: str) -> list[Row]:
    sound, food, legs = ANIMALS[animal]
    return [
        *turn(f"What does a {animal} say?", f"A {animal} says {sound}."),
        *turn("And what does it eat?", f"A {animal} eats {food}."),
        *turn("How many legs does it have?", f"A {animal} has {legs} legs."),
    ]


def greeting_rows() -> Iterator[Row]:
    """The assistant's greeting is kept out of the loss, the fact is not."""
    for (name, greeting), country in zip(spread(product(NAMES, GREETINGS), 42), list(CAPITALS) * 3, strict=True):
        hello = turn(f"{greeting}, I am {name}.", f"{greeting}, {name}! How can I help you?", train=False)
        fact = turn(f"What is the capital of {country}?", f"The capital of {country} is {CAPITALS[country]}.")
        yield {"messages": [*hello, *fact, *turn("Thank you!", f"You are welcome, {name}.")]}


def animal_rows() -> Iterator[Row]:
    for animal, style in product(ANIMALS, ["Answer in one sentence.", "You know all about animals.", None]):
        system = [message("system", style)] if style else []
        yield {"messages": [*system, *animal_turns(animal)]}


def reasoning_rows() -> Iterator[Row]:
    for a, b, c in spread(product(range(2, 10), range(2, 10), range(2, 10)), 40):
        thought = f"{a} + {b} = {a + b}, and {a + b} + {c} = {a + b + c}."
        answer = turn(f"What is {a} + {b} + {c}?", f"It is {a + b + c}.", reasoning_content=thought)
        yield {"messages": answer}


def opposite_rows() -> Iterator[Row]:
    """Content as a list of parts; the first answer is wrong and kept out of the loss."""
    for word, opposite in [*OPPOSITES.items(), *((value, key) for key, value in OPPOSITES.items())]:
        parts = [{"type": "text", "text": text} for text in ("Give me the opposite.", word)]
        question = message("user", parts)
        wrong = message("assistant", f"The opposite of {word} is {word}.", weight=0)
        yield {"messages": [question, wrong, *turn("Are you sure?", f"No. The opposite of {word} is {opposite}.")]}


BAD_LINES = [
    '{"messages": [{"role": "user", "content": "This line ends too ea',
    '{"messages": [{"role": "robot", "content": "Beep."}]}',
    '{"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant"}]}',
    '["a list", "is not", "a row"]',
    '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "cat.png"}}]}]}',
]


def chat_lines() -> list[str]:
    rows = [*greeting_rows(), *animal_rows(), *reasoning_rows(), *opposite_rows()]
    lines = [json.dumps(row) for row in rows]
    for number, bad in enumerate(BAD_LINES):
        lines.insert(20 + 25 * number, bad)
    return lines


def definition(name: str, description: str, **parameters: str) -> Row:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


ADD = definition("add", "Add two numbers.", a="integer", b="integer")
GET_WEATHER = definition("get_weather", "The weather of a city.", city="string")


def call(number: int, name: str, arguments: Row | str) -> Row:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def result(number: int, content: Row) -> Row:
    return message("tool", json.dumps(content), tool_call_id=f"call_{number}")


def weather_rows() -> Iterator[Row]:
    """Arguments as objects; every third row asks about two cities at once."""
    cities = list(CAPITALS.values())
    for number, city in enumerate(cities * 2):
        asked = [city, cities[(number + 5) % len(cities)]] if number % 3 == 0 else [city]
        found = [(each, WEATHER[(number + len(each)) % len(WEATHER)]) for each in asked]
        calls = [call(index, "get_weather", {"city": each}) for index, each in enumerate(asked)]
        results = [result(index, {"city": each, "weather": weather}) for index, (each, weather) in enumerate(found)]
        answer = " ".join(f"It is {weather} in {each}." for each, weather in found)
        question = message("user", f"What is the weather in {' and '.join(asked)}?")
        calling = message("assistant", None, tool_calls=calls)
        yield {"messages": [question, calling, *results, message("assistant", answer)], "tools": [GET_WEATHER, ADD]}


def adding_rows() -> Iterator[Row]:
    """Arguments and definitions as JSON text, and a text beside the call."""
    for a, b in spread(product(range(11, 99, 3), repeat=2), 32):
        calling = message("assistant", "I will add them.", tool_calls=[call(0, "add", json.dumps({"a": a, "b": b}))])
        answer = message("assistant", f"{a} plus {b} is {a + b}.")
        question = message("user", f"Please add {a} and {b}.")
        messages = [message("system", "Use your tools."), question, calling, result(0, {"sum": a + b}), answer]
        yield {"messages": messages, "tools": json.dumps([ADD])}


def sharegpt_rows() -> Iterator[Row]:
    for country, name in zip(list(CAPITALS) * 4, spread(NAMES * 6, 56), strict=True):
        capital = CAPITALS[country]
        said = [
            ("human", f"{name} lives in {capital}. Which country is that?"),
            ("gpt", f"{capital} is in {country}, so {name} lives in {country}."),
            ("human", f"Is {capital} the capital?"),
            ("gpt", f"Yes, {capital} is the capital of {country}."),
        ]
        yield {"conversations": [{"from": role, "value": value} for role, value in said]}


def arithmetic_rows() -> Iterator[tuple[str, int]]:
    for a, b in spread(product(range(1, 21), repeat=2), 120):
        yield f"What is {a} + {b}?", a + b


def alpaca_rows() -> Iterator[Row]:
    for word, name in spread(product(OPPOSITES, NAMES), 48):
        shout = f"{name} likes {word} days"
        yield {"instruction": "Write it in capital letters.", "input": shout, "output": shout.upper()}
    for season, fact in SEASONS.items():
        yield {"instruction": f"What happens in {season}?", "input": None, "output": f"In {season} {fact}."}


def note_lines() -> Iterator[str]:
    for (animal, (sound, food, _)), (season, fact) in product(ANIMALS.items(), SEASONS.items()):
        yield f"In {season} {fact}. The {animal} eats {food} and says {sound}, and nobody on the farm is in a hurry."


def as_lines(items: Sequence[str]) -> str:
    return "".join(f"{item}\n" for item in items)


def main() -> None:
    (HERE / "chat.jsonl").write_text(as_lines(chat_lines()))
    tools = as_lines([json.dumps(row) for row in (*weather_rows(), *adding_rows())])
    (HERE / "tools.jsonl.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(tools.encode()))
    (HERE / "sharegpt.json").write_text(json.dumps(list(sharegpt_rows()), indent=1) + "\n")
    with (HERE / "arithmetic.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("question", "answer"), *arithmetic_rows()])
    pq.write_table(pa.Table.from_pylist(list(alpaca_rows())), HERE / "alpaca.parquet")
    (HERE / "notes.txt").write_text(as_lines(list(note_lines())))


if __name__ == "__main__":
    main()
