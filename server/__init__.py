"""The doors to a flow: HTTP, the command line, and the process that opens and closes everything behind them."""

import os

# a2a-sdk reads this once, on import, and has no other switch; its spans cost a fifth of every answer.
os.environ.setdefault("OTEL_INSTRUMENTATION_A2A_SDK_ENABLED", "false")
