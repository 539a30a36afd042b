"""What the controller of ImageBuilds may do, beside reading what informers show."""

from __future__ import annotations

from underway.kit import Role, Rule

ROLES = {
    "controller": Role(
        "image-build-controller",
        (
            Rule("get list watch", "build.underway.dev", "imagebuilds"),
            Rule("get patch update", "build.underway.dev", "imagebuilds/status"),
            Rule("get", "-", "configmaps"),
        ),
    ),
}
