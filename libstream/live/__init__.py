"""Live sources: messages in, frames in their place, every loss counted."""
