"""The engine: one tile loop, one merge, for stored and live data alike."""
