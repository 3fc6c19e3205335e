"""What a session is, and what becomes of it. It knows neither HTTP nor a handler."""
