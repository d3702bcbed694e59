"""The engine: bodies, cameras, conditions, windows, avatars. It knows no transport and no runtime."""
