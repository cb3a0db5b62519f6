"""List every version that is fetched; the two Maven poms take theirs from here, Java has requirements/java.lock."""

from typing import Final

KAFKA_VERSION: Final = "4.3.1"
KAFKA_SCALA_VERSION: Final = "2.13"
# Kafka uses slf4j 1.7, to which only the "slf4j-impl" variant of Log4j binds ("slf4j2-impl" is for slf4j 2).
# The version is that of the log4j-core that Kafka depends on.
KAFKA_LOG4J_VERSION: Final = "2.25.4"

VERSITYGW_VERSION: Final = "1.8.0"
GO_MINIMUM: Final = "1.25"  # the "go" line of VersityGW's go.mod

S3PROXY_VERSION: Final = "4.1.0"
# S3Proxy compiles against Jackson 3, which needs annotations 2.20+; Maven's nearest-wins rule picks 2.18.
S3PROXY_JACKSON_ANNOTATIONS_VERSION: Final = "2.21"

JAVA_MINIMUM: Final = 17  # of Kafka 4 brokers and of S3Proxy 3+

MAVEN_DEPENDENCY_PLUGIN_VERSION: Final = "3.8.1"
