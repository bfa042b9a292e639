"""Small, complete applications that use Planwire; the tests run them."""
