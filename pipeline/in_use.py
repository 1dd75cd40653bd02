"""The mark of the latest run in an output folder: whoever cleans the folder sees by it that a run has begun."""

import secrets

from schemas.store import Folder

STARTED = "state/started"


def mark_started(output: Folder, state_folder: str) -> None:
    """Before a run writes anything else. No two marks are the same."""
    output.write(f"{state_folder}/started", b"")  # before the mark: who sees that one finds the build's state young
    output.write(STARTED, secrets.token_hex(16).encode())


def read_mark(output: Folder) -> bytes | None:
    """None where no run has begun yet."""
    try:
        return output.read(STARTED)
    except FileNotFoundError:
        return None
