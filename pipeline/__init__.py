"""What the three services share: messages, errors, retry, the consumer loop, transport, storage, downloads.

Nothing in here imports a service (``api``, ``processor``, ``uploader``).
"""
