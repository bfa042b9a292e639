"""What several tests share: real servers, waiting with a deadline, a browser."""
