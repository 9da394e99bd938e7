"""The files that OpenLLM reads in addition to the hub: model repositories, Bento stores, wheels."""
