"""The root of every error that `gateway` raises.

GatewayError
├── SettingsError   the environment does not make a usable configuration
├── JwksError       the key set could not be fetched or read
└── (each module adds its own below this root)
"""


class GatewayError(Exception):
    """Something `gateway` could not do; the text says what and why."""
