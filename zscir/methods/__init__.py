"""Methods: trainable ways to turn (image, text) into a query vector, one file and one registry entry each."""
