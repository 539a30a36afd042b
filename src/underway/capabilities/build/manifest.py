"""What this capability is made of."""

from underway.kit import Capability

CAPABILITY = Capability(
    id="build",
    summary="Build images from Dockerfiles, on base images from registries or Debian packages.",
    crds=("underway.capabilities.build.crds:imagebuilds.yaml",),
    controllers=("underway.capabilities.build.controller:add",),
    permissions="underway.capabilities.build.permissions:ROLES",
    commands={
        "base": "underway.capabilities.build.cli_base:base",
        "build": "underway.capabilities.build.cli:build",
        "builds": "underway.capabilities.build.cli_builds:builds",
        "kaniko": "underway.capabilities.build.cli_kaniko:kaniko",
    },
    command_summaries={
        "base": "Make base images from Debian packages, by declaration.",
        "build": "Build an image from a Dockerfile.",
        "builds": "Show what builds keep on this machine, and make room.",
        "kaniko": "Build an image with the kaniko executor's flags.",
    },
    provides={
        "image-builder": "underway.capabilities.build.backend.builder:image_builder",
        "base-images": "underway.capabilities.build.backend.bases:base_images",
    },
    teardown="underway.capabilities.build.backend.rooms:sweep",
    probe="underway.capabilities.build.backend.machine:probe",
)
