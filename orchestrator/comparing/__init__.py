"""Two runs side by side: what differs in their inputs, whether it is resolved, and where they part in bits."""
