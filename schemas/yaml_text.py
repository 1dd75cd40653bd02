"""YAML as config files have it: plain values, no key twice, and no more of them than a person would write.

A few lines of YAML can stand for more values than any memory holds, by aliases of aliases.
"""

import re
from typing import Any

import yaml

MOST_BYTES = 2**22
"""A config that is longer is refused; so a reader need not read on."""
MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a key given twice is an error, not the last of the two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if re.search("[\0\ud800-\udfff]", str(node.value)):
            problem = "a NUL character, or half of a surrogate pair"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_scalar(node)

    def construct_number(self, node: yaml.ScalarNode) -> int:
        value = int(self.construct_yaml_int(node))
        if value.bit_length() > 1023:
            raise yaml.constructor.ConstructorError(None, None, "a number beyond all use", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def load_yaml(text: str) -> Any:
    """The value of a document; None for an empty one. Raises ValueError, YAML's own errors too, for what is not YAML or
    beyond the limits."""
    if len(text.encode(errors="replace")) >= MOST_BYTES:
        raise ValueError(f"it has {MOST_BYTES} bytes or more: that is no config")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES} values, or for itself: write it without aliases")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """The values that a node stands for, each alias counted in full. `counted` is by the node's identity."""
    if id(node) not in counted:
        counted[id(node)] = MOST_VALUES + 1  # should it hold itself
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
        counted[id(node)] = 1 + sum(_count(part, counted) for part in inner)
    return counted[id(node)]
