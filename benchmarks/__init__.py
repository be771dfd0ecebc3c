"""Side-by-side measurements. Each is a command, and all of them are `make bench`:

    python -m benchmarks.soft_target_pass             the pass over a bare torch loop
    python -m benchmarks.student_with_distillation    a student with soft targets over one without, and over a bare loop
    python -m benchmarks.end_to_end                   the whole against TextBrewer, a loop by hand, and Ray Data

A figure is a ratio of two times taken in one run, in turns, so that a slow or busy machine slows both. It is printed,
and written to `results/<name>.json` with a description of the machine. Stillhouse is used as its users do: by its
command, `report.json` and `events.jsonl`. `--help` tells how to run each on less.
"""
