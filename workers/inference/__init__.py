"""Teachers: they host members and compute the members' contributions to the soft targets."""
