"""python -m train, on a machine whose second rank finds no room for its part of the second checkpoint."""

import os
import sys
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemWriter

from train.__main__ import main

write = FileSystemWriter.write_data


def write_data(self: FileSystemWriter, *given: Any) -> Any:
    if os.environ["RANK"] == "1" and ".step-00000002.tmp" in str(self.path):
        raise OSError(28, "No space left on device")
    return write(self, *given)


FileSystemWriter.write_data = write_data  # type: ignore[method-assign]
sys.exit(main())
