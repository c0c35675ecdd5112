"""Reports: pages and pictures of runs."""
