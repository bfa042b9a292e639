"""The simulated provider's interface: the routes of Paddle's API, its entities and its webhook signatures."""
