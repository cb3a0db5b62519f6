"""The child processes that own the models: start and supervise them, and dispatch jobs to them."""
