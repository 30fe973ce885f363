"""Claims: what papers stand on, as experiments that anyone re-runs. One file for each."""
