"""Ways to find and train a network, one file of functions each, and the pipeline that they share."""
