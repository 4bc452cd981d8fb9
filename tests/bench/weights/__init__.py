"""Models of as many bytes of weights as one likes, and the memory that the importer and the reference take for them."""
