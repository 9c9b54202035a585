"""The peers of `sqs`: a job that does nothing, as each of them writes it, without Penstock.

``python -m bench.sqs_peers.NAME JOBS`` enqueues. Each is set up for speed as far as its own
documentation goes: messages received ten at a time, long polls, no result kept.
"""
