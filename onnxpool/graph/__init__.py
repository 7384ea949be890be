"""What an ONNX graph holds: its forms, its fingerprint, its parts, its declared shapes."""
