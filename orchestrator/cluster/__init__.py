"""The Ray cluster: joined or started, surveyed, reserved, and its tasks."""
