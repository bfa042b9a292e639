"""Any topic's versioned state: names, keys, the commit script and the store behind it. Knows nothing of billing."""
