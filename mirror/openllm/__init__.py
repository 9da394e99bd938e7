"""What OpenLLM needs beside the hub: model repositories in git, Bento stores, wheels."""
