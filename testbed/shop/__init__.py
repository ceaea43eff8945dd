"""The shop's services. Each runs as a process of its own: `python -m testbed.shop NAME --help`."""
