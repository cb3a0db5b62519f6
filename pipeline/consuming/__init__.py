"""The consumer loop: receive, handle, settle, retry, dead-letter, shut down."""
