"""Prompt templates as torchtune has them, text around the content of each role, compiled to Jinja.

BOS stands first where the tokenizer has one, and EOS after every answer. In the terms of the mask, the prefix of an
answer is its header, and its suffix is markup that the model writes.
"""

from pipeline.config import PromptTemplate


def compile_prompt_template(template: PromptTemplate) -> str:
    roles = [f"{_quote(role)}: [{_quote(a)}, {_quote(b)}]" for role, (a, b) in template]
    return (
        f"{{%- set affixes = {{{', '.join(roles)}}} -%}}\n"
        "{{- bos_token | default('', true) -}}\n"
        "{%- for message in messages -%}\n"
        "    {%- set prefix, suffix = affixes[message.role] -%}\n"
        "    {{- prefix + message.content + suffix -}}\n"
        "    {{- eos_token if message.role == 'assistant' else '' -}}\n"
        "{%- endfor -%}\n"
        "{{- affixes['assistant'][0] if add_generation_prompt else '' -}}"
    )


def _quote(text: str) -> str:
    """A Jinja string: it has the escapes of Python's, so that nothing in the text can be taken for syntax."""
    return ascii(text)
