"""The frame of every service process: start-up, shutdown, health endpoints, metrics, logs and working folders."""
