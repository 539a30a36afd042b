"""CompositeController and DecoratorController: watching parents and asking their hooks."""
