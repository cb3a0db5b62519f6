"""Real servers on loopback for development and tests: Apache Kafka and an S3 server, fetched once and run from here.

`start_local.sh --kafka` and the test suite use the same code. Nothing in the services imports this package.
"""
