"""Reference packages that measurements are compared with."""
