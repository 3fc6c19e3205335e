"""The bytes of a request and of its response: cookies, other ways in, XSRF values."""
