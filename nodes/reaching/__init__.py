"""Choosing and reaching an endpoint of an agent."""
