"""What every domain needs to be served over HTTP and operated."""
