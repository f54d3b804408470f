"""ROUTER sockets: binding, connections, and how much each peer may queue."""
