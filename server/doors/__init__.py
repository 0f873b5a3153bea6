"""The doors: each file reads one kind of request, takes a turn or reads a call, and writes the answer."""
