"""vivavoce makes a face speak: portraits and videos driven by audio, from a file or live."""

import os

# Threads that wait for one another sleep, unless the user says otherwise. Spinning, as OpenMP does by itself, gains nothing on an idle
# machine (22 frames a second either way on 2 cores) and beside a second busy program costs three quarters of the speed (3 against 11).
# Here, because OpenMP reads it when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
