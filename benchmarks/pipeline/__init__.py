"""`make bench-pipeline`: jobs through the services, on a real Kafka and S3, beside one job after the other.

songs         the songs, and a far and slow server of them
hooks         who the webhooks are for
services      the services as processes, and what they are asked
sequential    the baseline: download, separate, upload, webhook; then the next job
rows          models, and the passes of both over the same songs, in turns
report        Markdown
"""
