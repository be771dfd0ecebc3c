"""The report of a finished run: its schema, tables, verdict and plots."""
