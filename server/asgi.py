"""The module-level app that process managers and `langgraph dev` need: `uvicorn server.asgi:app`."""

from server.app import create_app
from server.logs import configure_logs
from server.settings import read_settings

settings = read_settings()
configure_logs(settings.log_level)
app = create_app(settings)
