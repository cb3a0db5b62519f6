"""Run Apache Kafka and an S3 server on loopback, for development and tests.

`start_local.sh --kafka` and the test suite share this code. It fetches each server once. No service imports it.
"""
