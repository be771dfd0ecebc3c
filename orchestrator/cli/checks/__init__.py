"""The checks of `stillhouse doctor`: of this machine, and of what a configuration needs. They start nothing."""
