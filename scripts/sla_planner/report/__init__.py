"""What a person looks at: plots, the self-contained page, terminal tables. The only room that knows matplotlib."""
