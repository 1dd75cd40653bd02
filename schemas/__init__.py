"""What crosses the wall between `pipeline` and `train`: channels, conversations, shards, manifest.

Nothing here imports Beam, torch or a tokenizer.
"""

__version__ = "0.1.0"
