"""Videos, face crops and splits."""
