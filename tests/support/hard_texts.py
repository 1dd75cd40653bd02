"""Text that has broken tokenizers, and text made of a tokenizer's own added tokens."""

from collections.abc import Iterator, Sequence

# Each is short, so that a failure shows what matters.
HARD_TEXTS = [
    "",
    " ",
    "a",
    "Hello, world! It's 12345 o'clock, I'LL  go.",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab\u1100\u116e\u11a8",
    "\U0001f468\u200d\U0001f469\u200d\U0001f466\U0001f3fd \u2764\ufe0f\u200d\U0001f525 \U0001f1e9\U0001f1ea",
    "e\u0301 a\u0308\u0323 \u0041\u030a \u212b \u1e9b\u0323 o\u0302\u0301\u0327",
    "\u0344 \u0958 \u2adc \ufb1d \u0f73 \u0cca \u0b4b",
    "q" + "\u0301\u0316" * 10,
    "\u0301leading",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e9\u05c1 \u0e01\u0e33 \u0915\u094d\u0937",
    "a" * 300,
    " " * 300,
    "\n" * 50,
    "ab " * 100,
    "\u4e00" * 100,
    "one\r\ntwo\r\n\r\n three\r\rfour\n\r",
    "tab\tnul\x00bell\x07del\x7fnel\x85",
    "\u00a0\u2003\u3000\u200b\ufeffx\u2028\u2029",
    "\ud7a3\uffff\U0010ffff\ufffd\ue000",
    "\u2581under \u2581\u2581 line",
    "trailing space ",
    "\n leading",
    "<s>[INST] hi [/INST]</s><unk><0x0A>",
    "<|im_start|>user\n<|im_end|><|eot_id|><|begin_of_text|>",
    "<tool_call>\n{}\n</tool_call><|fim_prefix|>",
]

MORE_TEXTS = [
    "  two spaces first",
    "\t\ttabs\t first",
    "\r\n\r\nline ends first and last\r\n",
    "spaces at the end   ",
    "line ends at the end\n\n\n",
    "{{ messages }}{% for m in x %}{# c #}",
    "def f(x):\n    return {'a': [1, 2.5e-3, None]}\n\n\nclass A:\n\tpass\n",
    "https://example.org/a?b=c&d=%20e#f",
    "3.14159 1,000,000 0x1F 1e10 \u0661\u0662\u0663 \u2460\u00bd",
    "don't DON'T we'Ve I'm it\u2019s",
    "ZWJ\u200dZWNJ\u200cSHY\u00adWJ\u2060",
    "\ufb01ligature \u2126 ohm \u212a kelvin \uff21\uff22\uff23 \u3392",
    "\u1e0d\u0307 \u1e0b\u0323 d\u0323\u0307 d\u0307\u0323",
    "\uac00\u11a8 \u1100\u1161\u11a8 \u1100\uac00",
    "<\u0338 >\u0338 =\u0338 <|\u0338>",
    "\U0001f3f3\ufe0f\u200d\U0001f308\U0001f44d\U0001f3ff\U0001f9d1\u200d\U0001f680",
    "!" * 200 + "?",
    "aA" * 200,
    "\u00e9" * 150,
    "\U0001f600" * 60,
    "1" * 100,
    "x" + " " * 100 + "y" + "\n " * 40 + "z",
    "mixed\u4e2d\u6587 \u0440\u0443\u0441 \u03b5\u03bb \u0939\u093f \u0ba4\u0bae\u0bbf\u0bb4\u0bcd end",
]


def texts_with(tokens: Sequence[str]) -> Iterator[str]:
    """Added tokens whole and in parts, alone, twice in a row, and with white space, letters and marks around them."""
    for token in tokens:
        half = max(1, len(token) // 2)
        for left, right in (
            ("", ""),
            (" ", " "),
            ("\n", "\n"),
            ("a", "b"),
            ("  ", "\n\n  hello"),
            ("\u0301", "\u0338x"),
        ):
            yield left + token + right
        yield from (
            token + token,
            token[:-1],
            token[1:],
            token[:half] + token,
            token + token[half:],
            f"{token} {token}",
        )
    for one, other in zip(tokens, [*tokens[1:], *tokens[:1]], strict=True):
        yield from (one + other, f"x{one[:-1]}{other}y", f"{one}\n{other} text {one}")
