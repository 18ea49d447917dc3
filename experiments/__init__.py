"""Experiments that show on real recurrent networks what each clipper of clipax does.

`python -m experiments --help` lists the tasks. Every task shares one training loop (`train`),
one legend (`clippers`), one store of finished groups (`store`) and one page (`report`).
"""
