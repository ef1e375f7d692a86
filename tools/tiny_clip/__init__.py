"""The embedded tiny CLIP: how it is made."""
