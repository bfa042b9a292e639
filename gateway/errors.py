"""The base class of every error that `gateway` raises.

GatewayError
├── SettingsError   the environment is not a usable configuration
├── JwksError       the key set cannot be fetched or read
└── (each module adds its own subclasses)
"""


class GatewayError(Exception):
    """Something `gateway` could not do; the text says what and why."""
