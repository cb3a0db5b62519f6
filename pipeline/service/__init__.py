"""What every service process has: its run, shutdown, health endpoints, metrics, logs and work folder."""
