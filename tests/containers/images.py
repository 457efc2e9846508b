"""The images that the container tests use."""

IMAGE = "udslab-base:debian-12"
"""The lab's own base, which script/base-images makes."""
