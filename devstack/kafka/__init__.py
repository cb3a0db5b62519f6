"""Apache Kafka as local processes: one broker, or a cluster."""
