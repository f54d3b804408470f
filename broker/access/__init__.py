"""Access: the identity and role of each peer, and the permissions of the broker's files."""
