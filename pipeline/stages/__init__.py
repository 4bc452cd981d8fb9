"""One module a stage; they meet in files under out/ and in the records beside them."""
