"""The resources of the machine: memory, CPU cores, cgroup limits."""
