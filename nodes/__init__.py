"""What one step of a call does: the state, the stage node, the classifier node and the way to remote agents.

`graph` connects these nodes and `server` opens doors to them; nothing here knows either.
"""
