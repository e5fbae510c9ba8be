"""Operating system images: the built-in `tiny` image, and images that users bring."""
