"""Judges as a matter of record: which model by default, what it costs, what was asked and what it said.

Importing this package costs nothing; the client that asks is `harness.scoring.judge`.
"""
