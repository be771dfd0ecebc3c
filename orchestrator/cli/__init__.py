"""The command `stillhouse`."""
