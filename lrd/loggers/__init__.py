"""Loggers: where the metrics of an epoch go."""

from lrd.loggers.base import Logger, Metrics
from lrd.loggers.console import ConsoleLogger
from lrd.loggers.images import ImageLogger
from lrd.loggers.jsonl import JSONLLogger, StepLogger, replay

__all__ = [
    "ConsoleLogger",
    "ImageLogger",
    "JSONLLogger",
    "Logger",
    "Metrics",
    "StepLogger",
    "replay",
]
