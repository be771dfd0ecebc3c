"""Side-by-side measurements. Each is a command; `make bench` runs all but the last:

    python -m benchmarks.soft_target_pass             the pass against a bare torch loop
    python -m benchmarks.student_with_distillation    a student with and without soft targets, and bare loops
    python -m benchmarks.simulated_accelerators       the pass with 10 to 100 teachers that only sleep
    python -m benchmarks.scaling_cost                 bytes and CPU per example as members, classes and workers grow
    python -m benchmarks.memory                       peaks of driver, teachers and student as the transfer set grows
    python -m benchmarks.teacher_forward              teachers against bare models: on a GPU, with only `workers/`
    python -m benchmarks.end_to_end                   a whole distillation against TextBrewer, plain torch and Ray Data
    python -m benchmarks.top_k                        bytes per token against KL error, on a language model's output

A figure is a ratio of two times from one run, measured in turns, so that a slow or busy machine slows both. It is
printed, and written to `results/<name>.json` with a description of the machine. A benchmark of a whole run starts the
command `stillhouse run`, and reads `report.json` and `events.jsonl`. `--help` lists options for shorter measurements.
"""
