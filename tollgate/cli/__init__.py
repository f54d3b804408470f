"""The commands of the command line, one a module, each loaded when it is asked for."""
