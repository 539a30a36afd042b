"""Build: Dockerfiles to images, and base images where no registry can be reached."""
