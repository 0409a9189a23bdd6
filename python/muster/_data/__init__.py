"""How functions, arguments, results and exceptions become bytes and blobs, and come back."""
