"""The pool of teachers: its actors, its policy when one is lost, and what is made of the answers."""
