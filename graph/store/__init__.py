"""Where a call lives: begun, committed and read through `calls`, seen by LangGraph through a saver."""
