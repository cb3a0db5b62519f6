"""The code that the three services share: messages, errors, retry, the consumer loop, transport, storage, downloads.

No module in it imports a service (``api``, ``processor``, ``uploader``).
"""
