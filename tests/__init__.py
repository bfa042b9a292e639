"""The tests. A regular package, since an installed distribution brings a top-level `tests` of its own."""
