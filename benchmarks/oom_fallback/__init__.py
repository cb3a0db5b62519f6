"""The accuracy of the steps of ``processor.engine.oom_fallback``: each step's stems against the stems without it."""
