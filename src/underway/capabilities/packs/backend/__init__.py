"""Reading source directories, compiling Go, and writing what a source lacks."""
