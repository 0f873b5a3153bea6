"""What the commands of `flows` do; `server.cli` only names them and loads them when they run."""
