"""Raw rows to packed shards. `pipeline.build(config)` is `packline build` as a Python call.

Nothing heavy is imported before it is needed: Beam takes a second and a half.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "build":
        from pipeline.launch import build

        return build
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
