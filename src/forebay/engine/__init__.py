"""One engine a model: admission, batches and the instance processes that run them."""
