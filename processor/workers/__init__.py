"""The child processes that own the models: start, supervise and dispatch jobs to them."""
