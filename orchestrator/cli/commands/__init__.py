"""The subcommands of `stillhouse`, one a file: its help, its arguments, and what it does."""
