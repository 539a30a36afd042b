"""What touches the machine: the packet rules, the DNS server, and the way to other resolvers."""
