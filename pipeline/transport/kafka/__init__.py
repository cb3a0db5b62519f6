"""The Kafka engine of ``pipeline.transport.protocol``."""
