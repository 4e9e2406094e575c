"""What a person looks at: pictures, one HTML page, the terminal. Everything here returns text or bytes; writing files is the caller's part."""
