"""The operator SDK: caches, queues, controllers, managers, leases, events."""
