"""Operators: Metacontroller's controllers in any language, and new operator projects."""
