"""Images that come with the program or inside its dependencies, one family a file; nothing is downloaded."""
