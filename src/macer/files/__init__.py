"""Reading and writing files safely: nothing is left half-written, and nothing that was read is executed."""
