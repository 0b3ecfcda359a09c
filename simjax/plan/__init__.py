"""What a recipe will take and how fast it may be, on accelerators that are not here."""
