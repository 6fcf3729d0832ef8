"""Frames to many computers: a router deals them out to consumers, a client merges what they send back."""
