"""What the machine offers: memory, cores, cgroup limits."""
