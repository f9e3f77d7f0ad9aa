"""The agent's way in: finds the rings of inference processes, reads them, remembers how far it got."""
