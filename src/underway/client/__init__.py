"""The only way a controller or a command sees a cluster.

``Client`` speaks the Kubernetes REST API through any handler: over TLS to a real cluster, or in
process to the embedded server, with the same bytes either way.
"""

from underway.client.client import Client, ObjectList, Patch, WatchEvent

__all__ = ["Client", "ObjectList", "Patch", "WatchEvent"]
