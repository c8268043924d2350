"""metrics.jsonl: one line per epoch, append-only, the only source of scores."""

import json
import os
from pathlib import Path

from lrd.loggers.base import Logger, Metrics
from lrd.runs.store import read_complete_lines


class JSONLLogger(Logger):
    """Append each epoch's metrics to metrics.jsonl.

    Opening the file truncates it to ``epochs`` lines, the epoch that a run resumes from, so that no
    epoch counts twice.
    """

    def __init__(self, path: Path, epochs: int = 0) -> None:
        kept = read_complete_lines(path)[:epochs]
        if len(kept) < epochs:
            raise ValueError(
                f"{path} has {len(kept)} epochs and the checkpoint {epochs}: "
                "run.force=true restarts the run"
            )
        self.file = path.open("r+b" if path.exists() else "wb")
        self.file.truncate(sum(map(len, kept)))
        self.file.seek(0, os.SEEK_END)

    def on_epoch(self, metrics: Metrics) -> None:
        self.file.write(json.dumps(metrics).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self, summary: Metrics) -> None:
        self.file.close()
