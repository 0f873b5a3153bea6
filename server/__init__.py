"""The doors to a flow: HTTP, the command line, and the process that opens and closes everything behind them."""
