"""The pytest plugin of udslab: a thin skin over the library."""
