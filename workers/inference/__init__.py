"""Teachers: what hosts members and answers with their contributions."""
