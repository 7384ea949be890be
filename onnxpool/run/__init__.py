"""From a model file to numbers: the native library, sessions, pictures."""
