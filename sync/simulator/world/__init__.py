"""The simulated provider's rules and entities. Pure."""
