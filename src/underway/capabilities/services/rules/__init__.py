"""Pure decisions: which packets go where, and what a name stands for."""
