"""Many named analyses for a server: kept, listed, run again, changed while they run, saved. No run logic."""
