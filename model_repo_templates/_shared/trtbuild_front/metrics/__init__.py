"""What is counted of requests, and how it becomes metrics of the server. It knows no requests and no Triton."""
