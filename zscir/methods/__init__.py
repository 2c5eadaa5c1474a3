"""Methods: trainable ways to turn (image, text) into a query vector, and the stock controls to hold against them."""
