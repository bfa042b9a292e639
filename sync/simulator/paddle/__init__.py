"""The simulated provider from outside: the routes of Paddle's API, its entities and its signatures."""
