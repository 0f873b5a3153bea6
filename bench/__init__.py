"""The measuring bench: the service against an honest hand-written peer, on one machine, in one run.

Nothing imports this package; `python -m bench` runs it and writes RESULTS.md.
"""
