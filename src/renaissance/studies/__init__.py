"""Studies: experiments of many runs in one file, run by one command and compared in one table."""
