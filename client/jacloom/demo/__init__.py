"""The problems of ``jacloom demo``, one a file."""
