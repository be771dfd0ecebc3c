"""The user's own code: factories, their import graph, the files that they read, and digests of all these."""
