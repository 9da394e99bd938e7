"""Make an entry of BENTOML_HOME from the files of a folder, through BentoML's own interface.

usage: create.py TAG FOLDER
"""

import shutil
import sys

import bentoml

tag, folder = sys.argv[1:]
with bentoml.models.create(tag, labels={"made": "elsewhere"}) as model:
    shutil.copytree(folder, model.path, dirs_exist_ok=True)
