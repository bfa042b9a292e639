"""The rules and entities of the simulated provider: state and action in, new state and events out. Pure."""
