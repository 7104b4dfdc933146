"""INT8 calibration: ranges of activations, and where quantisation goes. It comes with the INT8 release."""
