"""Random schedules of faults around the pure state of the pool: a simulated clock, teachers and storage.

`python -m tests.simulation --seed N` replays a schedule with a trace.
"""
