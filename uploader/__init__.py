"""The uploader: encodes and publishes stems, decides the outcome of each task, calls the webhook."""
