"""The pool of teachers: its actors, its policy for lost teachers, and the jobs that process answers."""
