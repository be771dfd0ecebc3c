"""What can be asked for: frozen descriptions of models, data, training and what is distilled.

Plain pydantic and no torch, so that the control plane can read, check and pass them on without loading
anything heavy. `orchestrator.config.run_config` composes these into the configuration of a run. A key that is not
described here is an error.
"""
