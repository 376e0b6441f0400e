"""What a stage script stands on, and what it asks for."""
