"""What travels between HTTP clients and servers, in one place for both: types, messages, addresses."""
