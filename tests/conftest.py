"""Here so that pytest puts this folder on the path: tests import their helpers, such as models_for_tests, by name."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # processes share the cores; torch's threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
