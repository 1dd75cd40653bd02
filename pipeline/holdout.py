"""Which rows are held out of training."""

import hashlib


def is_held_out(url: str, position: int, share: float) -> bool:
    """Whether a row belongs to the holdout: the first 64 bits of sha256("URL\\0POSITION") lie below its share."""
    digest = hashlib.sha256(f"{url}\0{position}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
