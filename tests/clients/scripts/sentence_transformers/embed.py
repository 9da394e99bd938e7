"""Embed sentences with a model, by its id or from its folder."""

import json
import sys

from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

SENTENCES = ["The mirror serves a model.", "A model is served by the mirror.", "It rains."]

rows = SentenceTransformer(sys.argv[1]).encode(SENTENCES)
sys.stdout.write(f"\n{json.dumps({'embeddings': rows.tolist()})}\n")
