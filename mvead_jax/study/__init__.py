"""The study of a device: is what it computes right and repeatable, and how fast (mvead study-device)."""
