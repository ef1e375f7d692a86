"""The demo world: rendered people, their videos, manipulated versions and a small CLIP that knows them."""
