"""Applications that use Planwire, small and whole; the tests run them."""
