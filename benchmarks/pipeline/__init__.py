"""`make bench-pipeline`: measure jobs through the services, with a real Kafka and S3, against a sequential program.

songs         the songs, and a server of them with a slow and distant line
hooks         the receiver of the webhooks
services      the services as processes, and a client of them
sequential    the baseline: download, separate, upload, webhook; then the next job
rows          models, and alternating passes of both over the same songs
report        the results as Markdown
"""
