"""The push side: reads versioned snapshots from the store's bus and keeps every open browser on the newest one."""
