"""Eleven kinds of chats, and the bank of contents that they are tried with."""

from typing import Any

from families import FAMILIES

Chat = list[dict[str, Any]]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "where"}},
    "required": ["city"],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "W \u00e9", "parameters": PARAMETERS}}]


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def _call(identity: str = "abcdefghi") -> dict[str, Any]:
    function = {"name": "weather", "arguments": {"city": "Z\u00fc", "n": 3}}
    return {"type": "function", "id": identity, "function": function}


def _result(content: str, identity: str = "abcdefghi") -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": identity, "name": "weather"}


def chats(question: str, answer: str) -> dict[str, Chat]:
    """A chat of each kind around a question and an answer."""
    call = _assistant("", tool_calls=[_call()])
    return {
        "single": [_user(question), _assistant(answer)],
        "multi": [_user(question), _assistant(answer), _user("c"), _assistant("d" + answer)],
        "system": [{"role": "system", "content": question or "S"}, _user("q"), _assistant(answer)],
        "tools": [_user(question), call, _result(answer), _assistant("done " + answer)],
        "tools twice": [
            *(_user(question), call, _result(answer), _assistant("done " + answer)),
            *(_user("more"), call, _result("r"), _assistant(answer)),
        ],
        "text and call": [_user(question), _assistant(answer, tool_calls=[_call()]), _result("r"), _assistant(answer)],
        "two calls": [
            _user(question),
            _assistant("", tool_calls=[_call(), _call("bbbbbbbbb")]),
            *(_result("r"), _result("s", "bbbbbbbbb"), _assistant(answer)),
        ],
        "ends in a call": [_user(question), call],
        "reasoning": [_user(question), _assistant(answer, reasoning_content="so " + answer)],
        "reasoning twice": [
            *(_user(question), _assistant("b", reasoning_content="R1 " + answer)),
            *(_user("c"), _assistant(answer, reasoning_content="so")),
        ],
        "reasoning and tools": [
            _user(question),
            _assistant("", reasoning_content="R1 " + answer, tool_calls=[_call()]),
            *(_result("r"), _assistant(answer, reasoning_content="R2")),
        ],
    }


def contents(family: str) -> dict[str, tuple[str, str]]:
    """The bank of a question and an answer each."""
    table = FAMILIES[family]
    control = table.special[-1]
    return {
        "plain": ("Hi there", "Hello you"),
        "line ends": ("\nHi\n", "\n Hello\n\n"),
        "spaces": ("  Hi ", "  Hello  "),
        "empty": ("", ""),
        "think": ("a <think>b</think>", "<think>\nx\n</think>\n\nyes"),
        "control token": (f"{control}x", f"y{control}{table.special[1]}z {table.eos}"),
        "template's own": ("user\nassistant\n", "assistant\nuser\n<tool_call>\n{}"),
        "CJK and emoji": ("\u4e16\u754c \U0001f600 e\u0301", "\u4e16\u754c\U0001f600"),
        "long": ("word " * 400, "long text. " * 400),
    }
