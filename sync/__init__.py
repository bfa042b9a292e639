"""The state side: turns billing events and publishes into versioned snapshots, committed and announced atomically."""
