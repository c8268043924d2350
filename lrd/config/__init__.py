"""Settings, their composition by Hydra, and the identity of a configuration. Imports no torch."""

from lrd.config.compose import CONFIGS, compose, format_error, to_config
from lrd.config.fingerprint import DEFAULTS, diff_identities, fingerprint, flatten, identity
from lrd.config.schema import Config

__all__ = [
    "CONFIGS",
    "DEFAULTS",
    "Config",
    "compose",
    "diff_identities",
    "fingerprint",
    "flatten",
    "format_error",
    "identity",
    "to_config",
]
