"""Execution of networks: ONNX Runtime sessions, precision, compilers, batches and transfers to the device."""
