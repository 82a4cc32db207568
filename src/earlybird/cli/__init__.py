"""The command line: flags and YAML become a `RunConfig`, errors become one line and exit code 2."""
