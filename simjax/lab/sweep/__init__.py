"""Studies that train one recipe over and over, with something in it varied, and seeds.

Every run is an ordinary one of `simjax train`, and a line of a file. A study of this kind says what
it varies, how a recipe becomes a run, and which settings are to be compared; the rest is here.
"""
