"""Encrypted model files: AES-256-GCM on the disk, decrypted in memory while a model is loaded."""
