"""The values that travel through libstream. Frozen, picklable, without behaviour that needs the outside."""
