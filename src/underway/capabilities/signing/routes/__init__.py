"""HTTP services: Notary's, and the one that serves TUF repositories, certificates and the log."""
