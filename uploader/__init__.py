"""The uploader: encodes separated stems, puts them into the store and calls the webhook."""
