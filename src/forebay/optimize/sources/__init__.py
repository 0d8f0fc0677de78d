"""What can be optimised, and how each kind of source becomes a model that is served now and an ONNX graph."""
