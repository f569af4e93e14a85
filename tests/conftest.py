"""Here so that pytest puts this folder on the path: tests import their helpers, such as models_for_tests, by name."""
