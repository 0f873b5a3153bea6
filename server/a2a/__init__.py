"""The A2A door: a flow as an agent that any client of versions 1.0 and 0.3 can call."""

# Before anything of a2a.compat: the sdk's modules import one another in a circle, which only opens from this side.
import a2a.server.routes  # noqa: F401
