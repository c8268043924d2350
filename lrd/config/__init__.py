"""Settings, their composition by Hydra, and the identity of a configuration. Imports no torch.

``lrd.config.compose.compose`` and ``lrd.config.fingerprint.fingerprint`` have the names of their
modules and are imported from these.
"""

from lrd.config.compose import CONFIGS, format_error, to_config
from lrd.config.fingerprint import DEFAULTS, diff_identities, flatten, identity
from lrd.config.schema import Config

__all__ = [
    "CONFIGS",
    "DEFAULTS",
    "Config",
    "diff_identities",
    "flatten",
    "format_error",
    "identity",
    "to_config",
]
