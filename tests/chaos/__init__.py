"""What breaks in production, done on purpose to real workers and servers: ``make chaos``.

A scenario (`scenarios`) breaks things under a steady load (`load`) on a rig of its own (`rig`);
then everything is mended, and the judge (`judge`) compares the job table and the store with
what is known to be right.
"""
