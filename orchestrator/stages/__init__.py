"""What a run does, stage by stage, from preflight to evaluation."""
