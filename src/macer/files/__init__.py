"""Read and write files safely: no file is left half-written, and nothing in a file is executed."""
