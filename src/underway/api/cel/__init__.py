"""The Common Expression Language as Kubernetes speaks it: compile, bound and evaluate."""

from underway.api.cel.program import EvaluationError, Program, compile_expression

__all__ = ["EvaluationError", "Program", "compile_expression"]
