"""The console's pages of workloads and pods."""
