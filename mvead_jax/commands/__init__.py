"""The commands of the program: `mvead <name>`, one module each; scripts/*.py are the same commands by file."""
